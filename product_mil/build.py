"""From a configuration to the objects of a run. The last room that sees the configuration."""

import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float, Int, Int64, Num

import product_mil
from product_mil.config import AUGMENT_LIMITS, Config, StageConfig
from product_mil.data.bson import Fault
from product_mil.data.categories import Categories, categories_from_ids, read_categories
from product_mil.data.duplicates import drop_images, shared_with
from product_mil.data.embeddings import (
    EmbeddedSource,
    EmbeddingStore,
)
from product_mil.data.faults import FaultList, product_faults
from product_mil.data.index import NO_CATEGORY, Catalogue, named_files, open_catalogue
from product_mil.data.loader import Loaded, PixelSource, Products, UnseenSource, batches
from product_mil.data.plan import Plan, SequentialPlan, ShuffledPlan, balanced_draws
from product_mil.data.sample import ensure_sample
from product_mil.data.split import split_products
from product_mil.embed import cached_embeddings
from product_mil.errors import UserError
from product_mil.head_init import NAMED, initialise_head
from product_mil.model.backbones import BackboneSpec, backbone, blocks_of
from product_mil.model.classifier import Arrays, Classifier, Model, split_model
from product_mil.model.heads import build_head
from product_mil.model.prior import NO_BACKBONE, PriorHead
from product_mil.model.tree import Levels, TreeHead
from product_mil.model.weights import load_weights
from product_mil.train.augment import Ranges
from product_mil.train.evaluate import metrics_of, score_products
from product_mil.train.log import RunLog
from product_mil.train.loop import Stage
from product_mil.train.losses import Target
from product_mil.train.mesh import replicate
from product_mil.train.optim import make_optimizer
from product_mil.train.runtime import peak_flops_per_s
from product_mil.train.state import WHOLE_PARTS, TrainState, initial_state
from product_mil.train.step import make_eval_step, make_train_step
from product_mil.train.trust import TRUST, collect_nll, fit_trust, make_trust_step

MAX_SHOWN_CATEGORIES = 5  # of those that the category file lacks


@dataclass(frozen=True)
class RunData:
    """The products of a run, their classes, and what is worth saying of them."""

    train: Products
    valid: Products
    categories: Categories
    class_counts: Int64[np.ndarray, " k"]  # in train
    fingerprint: str
    notes: list[str]
    product_faults: list[tuple[Path, Fault]]  # that no single file's index can tell
    category_faults: list[str]  # rows of the category file that were left out


def check_config(config: Config) -> list[str]:
    """What is wrong with a configuration's names, a line each; values are `config.problems`."""
    found: list[str] = []
    for name, spec in (("train", config.data.train), ("valid", config.data.valid)):
        try:
            if spec:
                named_files(spec)
        except UserError as error:
            found.append(f"config.data.{name}: {error}")
    if config.data.categories and not Path(config.data.categories).is_file():
        found.append(f"config.data.categories: {config.data.categories}: no such file")
    weights = config.model.weights
    if weights not in ("", "imagenet") and not Path(weights).expanduser().exists():
        found.append(f"config.model.weights: {weights}: no such file or directory; or say imagenet")
    head_init = config.model.head_init
    if head_init not in NAMED:
        if not Path(head_init).is_file():
            found.append(
                f"config.model.head_init: {head_init}: no such file, nor {', '.join(NAMED)}"
            )
        if weights != "imagenet" and not Path(weights).expanduser().is_file():
            found.append(
                f"config.model.head_init={head_init}: needs the ImageNet top of "
                "config.model.weights=imagenet or of a file"
            )
    try:
        spec = backbone(config.model.backbone)
    except UserError as error:
        return [*found, f"config.model.backbone: {error}"]
    dim = spec.embedding_dim
    if config.data.image_size_px < spec.min_image_size_px:
        found.append(
            f"config.data.image_size_px={config.data.image_size_px}: {spec.name} takes images "
            f"from {spec.min_image_size_px} px"
        )
    found += _trainable_problems(config, spec)
    found += _baseline_problems(config, on_host=spec.on_host is not None)
    attention = config.model.pooling in ("gated_attention", "transformer")
    if attention and dim % config.model.attention_heads:
        found.append(
            f"config.model.attention_heads={config.model.attention_heads}: does not divide the "
            f"{dim} channels of {config.model.backbone}"
        )
    devices = jax.device_count()
    if config.data.shards % devices:
        found.append(
            f"config.data.shards={config.data.shards}: must be a multiple of the {devices} devices"
        )
    return found


def _trainable_problems(config: Config, spec: BackboneSpec) -> list[str]:
    """Stages that name a block which the backbone does not have, a line each."""
    found: list[str] = []
    for name, stage in (("head", config.head), ("finetune", config.finetune)):
        if stage.epochs and stage.trainable not in WHOLE_PARTS:
            blocks = blocks_of(spec)
            if stage.trainable not in blocks:
                found.append(
                    f"config.{name}.trainable={stage.trainable}: expected head, all or a block "
                    f"of {spec.name}: {', '.join(blocks)}"
                )
    return found


def _baseline_problems(config: Config, *, on_host: bool) -> list[str]:
    """What the systems that are no nets cannot do, a line each."""
    model, found = config.model, []
    if (model.pooling == "prior") != (model.backbone == NO_BACKBONE):
        found.append(
            f"config.model.pooling={model.pooling} with config.model.backbone={model.backbone}: "
            f"prior and {NO_BACKBONE} go together, and with nothing else"
        )
    if on_host and (config.finetune.epochs or not config.data.embedding_cache):
        found.append(
            f"config.model.backbone={model.backbone}: has nothing to finetune and lives in the "
            "cache; set config.finetune.epochs=0 and config.data.embedding_cache=true"
        )
    if on_host and any(getattr(config.augment, name) for name in AUGMENT_LIMITS):
        found.append(f"config.model.backbone={model.backbone}: takes no augmentation")
    if model.weights and (on_host or model.pooling in ("prior", "tree")):
        found.append(f"config.model.weights={model.weights}: a {model.pooling} takes none")
    return found


def build_data(config: Config) -> RunData:
    """Index, split and label the products.

    Raises:
        UserError: files that are missing, no BSON, or hold no labelled product.
    """
    data, notes = config.data, []
    train_spec, categories_path = data.train, data.categories
    if not train_spec:
        sample = ensure_sample(data.sample_seed)
        train_spec, categories_path = str(sample.train), str(sample.categories)
    catalogue = open_catalogue(train_spec)
    category_faults: list[str] = []
    skipped = category_faults if data.bad_categories == "skip" else None
    categories = (
        read_categories(Path(categories_path), skipped)
        if categories_path
        else categories_from_ids(np.asarray(catalogue.category_id))
    )
    dropped = drop_images(catalogue, data.drop_images_md5) if data.drop_images_md5 else None
    split = split_products(
        catalogue,
        valid_fraction=0.0 if data.valid else data.valid_fraction,
        seed=config.seed,
        max_products=data.max_products,
        ignored_images=dropped,
    )
    if split.num_linked and not data.valid:
        notes.append(f"{split.num_linked} products share an image: kept on one side of the split")
    popular = zip(split.popular_images.tolist(), split.popular_num_products, strict=True)
    for image, count in list(popular)[:5]:
        notes.append(
            f"the image at byte {catalogue.image_offset_bytes[image]} is in {count} products; if "
            "it is a placeholder, name its md5 in config.data.drop_images_md5"
        )
    first = catalogue.first_records()
    train_rows, valid_rows, valid_catalogue, valid_dropped = (
        np.intersect1d(split.train_rows, first),
        np.intersect1d(split.valid_rows, first),
        catalogue,
        dropped,
    )
    fingerprint = catalogue.fingerprint
    if data.valid:
        valid_catalogue = open_catalogue(data.valid)
        valid_rows = valid_catalogue.first_records()
        shared = shared_with(catalogue, train_rows, valid_catalogue, valid_rows)
        if shared:
            notes.append(f"{shared} validation products share an image with training")
        if data.drop_images_md5:
            valid_dropped = drop_images(valid_catalogue, data.drop_images_md5)
        fingerprint += valid_catalogue.fingerprint
    train = _products(catalogue, train_rows, categories, data.max_images, dropped)
    valid = _products(valid_catalogue, valid_rows, categories, data.max_images, valid_dropped)
    found = [*product_faults(train, labelled=True), *product_faults(valid, labelled=True)]
    notes += [f"{categories_path}: {len(category_faults)} bad rows left out"][
        : len(category_faults)
    ]
    surplus = sum("more than" in fault.reason for _, fault in found)
    notes += [f"{surplus} products have more images than config.data.max_images"][:surplus]
    imageless = int((train.num_images == 0).sum())
    notes += _unlabelled(train, categories, categories_path, data.bad_categories)
    if imageless:
        notes.append(f"{imageless} training products have no image: left out")
    train = train.subset((train.labels >= 0) & (train.num_images > 0))
    if not len(train):
        raise UserError(
            f"{train_spec}: no product with an image and a category of "
            f"{categories_path or 'its own'}; check config.data.categories"
        )
    scored = int((valid.labels >= 0).sum())
    if not scored:
        raise UserError(
            f"{data.valid or 'the validation part'}: no product of a known category; check "
            "config.data.valid and config.data.categories"
        )
    if scored < len(valid):
        notes.append(f"{len(valid) - scored} validation products of unknown category: not scored")
    return RunData(
        train=train,
        valid=valid,
        categories=categories,
        class_counts=np.bincount(train.labels, minlength=len(categories.ids)).astype(np.int64),
        fingerprint=hashlib.sha256(fingerprint.encode()).hexdigest()[:32],
        notes=notes,
        product_faults=found,
        category_faults=category_faults,
    )


def _unlabelled(train: Products, categories: Categories, path: str, policy: str) -> Iterator[str]:
    """Lines on products without a class.

    Raises:
        UserError: they are most of those with a category, and the policy is to fail: the category
            file is one of other data.
    """
    category_id = np.asarray(train.catalogue.category_id)[train.rows]
    ids, counts = np.unique(category_id[train.labels < 0], return_counts=True)
    nameless = int(counts[ids == NO_CATEGORY].sum())
    if nameless:
        yield f"{nameless} training products have no category_id: left out"
    ids, counts = ids[ids != NO_CATEGORY], counts[ids != NO_CATEGORY]
    if len(ids):
        most = np.argsort(-counts, kind="stable")[:MAX_SHOWN_CATEGORIES]
        shown = ", ".join(f"{ids[i]} of {counts[i]} products" for i in most)
        more = ", ..." if len(ids) > len(most) else ""
        what = (
            f"{path} lacks {len(ids)} categories of {counts.sum()} training products "
            f"({shown}{more})"
        )
        if policy == "fail" and counts.sum() > (len(train) - nameless) / 2:
            raise UserError(
                f"{what}, more than half of them: name the file that belongs to the data, or "
                "leave these products out with config.data.bad_categories=skip"
            )
        yield f"{what}: left out; add rows for them to train on these too"


def _products(
    catalogue: Catalogue,
    rows: np.ndarray,
    categories: Categories,
    max_images: int,
    dropped: np.ndarray | None,
) -> Products:
    labels = categories.class_of(np.asarray(catalogue.category_id)[rows])
    return Products(catalogue, rows, labels, max_images, dropped)


def build_model(
    config: Config,
    classes: int,
    category_ids: Int64[np.ndarray, " k"] | None = None,
    levels: Levels | None = None,
) -> tuple[Model, list[str]]:
    """A classifier with its weights loaded, and lines that say what was loaded.

    `category_ids` is given where the head is about to be trained: then `head_init` counts.
    `levels` is read by the tree alone.

    Raises:
        UserError: weights that do not fit, or cannot be had.
    """
    settings = config.model
    spec = backbone(settings.backbone)
    rngs = nnx.Rngs(config.seed)
    net = spec.build(rngs=rngs, dtype=jnp.dtype(settings.compute_dtype))
    if settings.pooling == "prior":
        head = PriorHead(classes)
    elif settings.pooling == "tree":
        assert levels is not None
        dropout_rate = settings.dropout
        head = TreeHead(spec.embedding_dim, levels, dropout_rate=dropout_rate, rngs=rngs)
    else:
        head = build_head(
            settings.pooling,
            dim=spec.embedding_dim,
            classes=classes,
            attention_heads=settings.attention_heads,
            attention_dim=settings.attention_dim,
            dropout_rate=settings.dropout,
            position_embedding=settings.position_embedding,
            count_embedding=settings.count_embedding,
            rngs=rngs,
        )
    notes, top = [], None
    if settings.weights and not Path(settings.weights).is_dir():  # a directory: a warm start
        with_top = category_ids is not None and settings.head_init not in NAMED
        loaded = load_weights(net, spec, settings.weights, with_top=with_top)
        top = loaded.top
        notes.append(f"{spec.name}: {loaded.n_tensors} tensors from {loaded.path}")
    model = Model(*split_model(Classifier(net, head)))
    if category_ids is not None:
        model, more = initialise_head(model, settings.head_init, category_ids, top, config.seed)
        notes += more
    return model, notes


def levels_of(categories: Categories) -> Levels:
    """What `build_model` has to know of the tree."""
    return categories.level1.tolist(), categories.level2.tolist()


def log_prior_of(class_counts: Num[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Logarithm of the class frequencies in training, with one added to each count."""
    counts = class_counts.astype(np.float64) + 1
    return np.log(counts / counts.sum()).astype(np.float32)


def run_record(config: Config, data: RunData, model: Model) -> dict[str, Any]:
    """What travels with the weights of a run: enough to predict without the run's data."""
    return {
        "config": config.to_dict(),
        "categories": data.categories.to_json(),
        "class_counts": data.class_counts.tolist(),
        "data_fingerprint": data.fingerprint,
        "version": product_mil.__version__,
        "parameters": int(sum(np.prod(leaf.shape) for leaf in model.parameters.values())),
    }


def evaluation_plan(products: Products, shards: int, image_slots: int) -> SequentialPlan:
    """Every product once, in order."""
    return SequentialPlan(products.num_images, shards=shards, image_slots=image_slots)


MIN_EPOCHS = 10  # of a stage whose length is given in steps


def stage_num_steps(stage: StageConfig, steps_per_epoch: int) -> int:
    """Whole epochs, as many as the stage asks for.

    By steps, small data is seen often enough to converge and large data at least `MIN_EPOCHS`
    times (docs/heads.md).
    """
    epochs = stage.epochs
    if epochs < 0:
        epochs = max(-(-stage.steps // steps_per_epoch), MIN_EPOCHS)
    return epochs * steps_per_epoch


def adjustments(
    stage: StageConfig,
    labels: Int[np.ndarray, " N"],
    draws: Float[np.ndarray, " N"] | None,
    log_prior: Float[np.ndarray, " k"],
) -> tuple[Float[np.ndarray, " k"] | None, Float[np.ndarray, " k"] | None]:
    """What is added to logits in the loss, and what on validation products as they come.

    Both None where classes are drawn as they are and no adjustment is asked for. The loss goes by
    the frequencies that training sees; the second one undoes the sampling besides.
    """
    if not stage.logit_adjustment and draws is None:
        return None, None
    seen = log_prior
    if draws is not None:
        k = len(log_prior)
        seen = log_prior_of(np.bincount(labels, weights=draws, minlength=k))
    adjustment = np.float32(stage.logit_adjustment) * seen
    return adjustment if stage.logit_adjustment else None, adjustment + log_prior - seen


def build_stage(
    config: Config,
    name: str,
    earlier: tuple[str, ...],
    data: RunData,
    model: Model,
    mesh: Mesh,
    record: dict[str, Any],
    log: RunLog,
    faults: FaultList,
    deadline: float = math.inf,
) -> tuple[Stage, TrainState]:
    """A stage and the state that it starts from; it stops at the deadline of `time.monotonic`."""
    settings: StageConfig = getattr(config, name)
    shards, image_slots = config.data.shards, settings.images_per_batch // config.data.shards
    draws = None
    if config.data.balance_power:
        draws = balanced_draws(data.train.labels, config.data.balance_power)
    plan = ShuffledPlan(
        data.train.num_images,
        shards=shards,
        image_slots=image_slots,
        seed=config.seed,
        draws=draws,
        labels=data.train.labels,
    )
    valid_plan = evaluation_plan(data.valid, shards, image_slots)
    num_steps = stage_num_steps(settings, plan.num_steps)
    epochs = num_steps // plan.num_steps
    optimizer = make_optimizer(
        settings.optimizer,
        learning_rate=settings.learning_rate,
        num_steps=max(num_steps, 1),
        warmup_fraction=settings.warmup_fraction,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
    )
    log_prior = log_prior_of(data.class_counts)
    adjustment, restoring = adjustments(settings, data.train.labels, draws, log_prior)
    ranges = Ranges(**dataclasses.asdict(config.augment))
    train_step = make_train_step(
        model.structure,
        optimizer,
        target=Target(
            settings.label_smoothing,
            adjustment,
            (settings.level1_loss, settings.level2_loss),
            (data.categories.level1, data.categories.level2),
        ),
        batch_statistics=settings.batch_statistics,
        ema_decay=settings.ema_decay,
        ranges=ranges,
    )
    eval_step = make_eval_step(model.structure)
    trust_step = make_trust_step(model.structure, restoring)
    threads = config.data.threads or os.cpu_count() or 1

    @functools.cache
    def store() -> EmbeddingStore | None:
        """Filled at the first batch: a stage that is already complete needs none."""
        if settings.trainable != "head" or not config.data.embedding_cache:
            return None
        if ranges.on:
            log.say("  augmentation is on: no embedding cache, each image is embedded at each use")
            return None
        filled = cached_embeddings(config, model, (data.train, data.valid), mesh, deadline)
        log.say(f"  {filled.summary}")
        faults.add(filled.unreadable)
        return filled.store

    def source(
        products: Products, chosen: Plan, steps: int
    ) -> PixelSource | EmbeddedSource | UnseenSource:
        if config.model.backbone == NO_BACKBONE:
            return UnseenSource(products, chosen)
        filled = store()
        if filled is not None:
            return EmbeddedSource(products, chosen, filled, num_steps=steps)
        size_px = config.data.image_size_px
        return PixelSource(products, chosen, image_size_px=size_px, num_steps=steps)

    def train_batches(first_step: int) -> Iterator[Loaded]:
        return batches(source(data.train, plan, num_steps), first_step=first_step, threads=threads)

    def valid_batches() -> Iterator[Loaded]:
        return batches(source(data.valid, valid_plan, valid_plan.num_steps), threads=threads)

    def calibrate(parameters: Arrays, statistics: Arrays) -> Arrays:
        if TRUST not in statistics:
            return statistics
        nll = collect_nll(
            len(data.valid),
            valid_batches(),
            lambda batch: trust_step(parameters, statistics, batch),
            mesh,
        )
        scored = (data.valid.labels >= 0) & (data.valid.num_images > 0)
        trust = fit_trust(nll[scored], data.valid.num_images[scored] > 1)
        return {**statistics, TRUST: jax.device_put(trust, statistics[TRUST].sharding)}

    def evaluate(parameters: Arrays, statistics: Arrays) -> dict[str, float]:
        scores, unreadable = score_products(
            len(data.valid),
            valid_batches(),
            lambda batch: eval_step(parameters, statistics, batch, log_prior),
            mesh,
        )
        faults.add(unreadable)
        values = metrics_of(scores, data.valid, data.categories)
        if TRUST in statistics:
            one, several = np.asarray(statistics[TRUST]).tolist()
            values |= {"trust_one_image": one, "trust_several_images": several}
        return values

    stage = Stage(
        name=name,
        num_steps=num_steps,
        # Each epoch; a stage of very many short epochs is looked at about 40 times.
        evaluate_every_steps=plan.num_steps * -(-epochs // 40),
        patience_evaluations=settings.patience_evaluations,
        checkpoint_every_s=config.checkpoint_every_s,
        train_step=train_step,
        calibrate=calibrate,
        evaluate=evaluate,
        batches=train_batches,
        key=replicate(jax.random.fold_in(jax.random.key(config.seed), len(earlier)), mesh),
        mesh=mesh,
        run_record={**record, "stage": name},
        peak_flops_per_s=peak_flops_per_s(config.model.compute_dtype),
        deadline=deadline,
    )
    state = initial_state(
        model.parameters,
        model.statistics,
        optimizer,
        trainable=settings.trainable,
        blocks=(
            () if settings.trainable in WHOLE_PARTS else blocks_of(backbone(config.model.backbone))
        ),
        with_ema=settings.ema_decay > 0,
    )
    return stage, state
