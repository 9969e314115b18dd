// The page: images in, answers out.

import { about, byId, column, describe, make, row, sampleButton, thumbnail } from "./draw.js";
import * as server from "./server.js";
import {
  bytes,
  change,
  counted,
  explained,
  flipped,
  numbered,
  path,
  unused,
  verdict,
} from "./words.js";

/** @import {Thumbnail} from "./draw.js" */
/** @import {Answer, Model, Models, Sample} from "./server.js" */

/** @typedef {{file: File, url: string, used: boolean, shown: Thumbnail}} Given */

// So many categories are asked for that the former first one is among them after a change.
const TOPK = 100;
// After which a server that starts is asked again.
const AGAIN_MS = 1500;
// Of a request, at most: its fields, and what a form has around each image, such as its name.
const FORM_BYTES = 1000;

/** @type {Given[]} */
let given = [];
/** @type {string[]|null} of the sample that is shown */
let label = null;
/** @type {Models} */
let models;
/** @type {Map<string, Answer[]>} by what was asked; of the images at hand */
let answers = new Map();
let asking = new AbortController();

/**
 * @param {string[]} sentences about what went wrong
 * @param {(() => void)|null} [retry]
 */
function complain(sentences, retry = null) {
  byId("sentences").replaceChildren(...sentences.map((sentence) => make("p", "", sentence)));
  byId("again").hidden = retry === null;
  byId("again").onclick = retry;
}

/**
 * Do something that ends when something else begins, and say what goes wrong.
 * @param {(signal: AbortSignal) => Promise<void>} work
 */
async function attempt(work) {
  asking.abort();
  const own = (asking = new AbortController());
  byId("answer").setAttribute("aria-busy", "true");
  complain([]);
  try {
    await work(own.signal);
  } catch (error) {
    if (own.signal.aborted) return;
    if (!(error instanceof server.Refused)) throw error;
    for (const id of ["answer", "details"]) byId(id).hidden = true;
    byId("said").replaceChildren();
    complain([error.message], () => attempt(work));
    if (error.early) setTimeout(() => own.signal.aborted || attempt(work), AGAIN_MS);
  } finally {
    if (own === asking) byId("answer").removeAttribute("aria-busy");
  }
}

/** @returns {Model[]} the model, and the one beside it if there is one */
const running = () => [models.model, models.beside].filter((model) => model !== null);

/** @returns {number|null} how sure a model has to be, where all can say it */
const wanted = () =>
  running().every((model) => model.calibrated) ? Number(byId("min-confidence").value) : null;

/**
 * @param {Given[]} images
 * @param {AbortSignal} signal
 * @returns {Promise<Answer[]>} asked for once
 */
async function answerTo(images, signal) {
  const least = wanted();
  const key = JSON.stringify([images.map(({ url }) => url), least]);
  const known = answers.get(key);
  if (known) return known;
  /** @type {Record<string, string|number|boolean>} */
  const fields = { topk: Math.min(TOPK, models.num_categories), beside: models.beside !== null };
  if (least !== null) fields.min_confidence = least;
  const files = images.map(({ file }) => file);
  const found = await server.predict(files, fields, signal);
  answers.set(key, found);
  return found;
}

/** Show the images at hand, and ask for their answer. */
function refresh() {
  const used = given.filter((image) => image.used);
  byId("intro").hidden = given.length > 0;
  for (const id of ["product", "result"]) byId(id).hidden = given.length === 0;
  byId("label").textContent = label ? `A sample with the label ${path(label)}.` : "";
  given.forEach(({ shown, file, used }, index) => describe(shown, index + 1, file, used));
  byId("hint").hidden = given.length < 2;
  attempt(async (signal) => {
    if (used.length === 0) {
      for (const id of ["answer", "details"]) byId(id).hidden = true;
      const sentence = given.length ? "All images are switched off." : "";
      byId("said").replaceChildren(make("p", "verdict", sentence));
      return;
    }
    const whole = await answerTo(given, signal);
    const now = await answerTo(used, signal);
    show(used, now, whole);
  });
}

/**
 * @param {Given[]} used
 * @param {Answer[]} now the answers to them
 * @param {Answer[]} whole the answers to all
 */
function show(used, now, whole) {
  const numbers = used.map((image) => String(given.indexOf(image) + 1));
  const off = given.flatMap((image, index) => (image.used ? [] : [String(index + 1)]));
  byId("said").replaceChildren(make("p", "verdict", verdict(running(), now)));
  if (off.length) {
    const without = `Without ${numbered(off).toLowerCase()}: `;
    const changes = now.map((answer, i) => {
      const sentence = change(running()[i].name, whole[i], answer);
      return make("p", flipped(whole[i], answer) ? "change flip" : "change", without + sentence);
    });
    byId("said").append(...changes);
  }
  const faults = unused(now[0], numbers);
  byId("said").append(...faults.map((sentence) => make("p", "fault", sentence)));
  const shared = { models, label, wanted: wanted() };
  byId("columns").replaceChildren(
    ...now.map((answer, i) => column({ ...shared, model: running()[i], answer, whole: whole[i] })),
  );
  byId("sureness").hidden = wanted() === null;
  byId("rows").replaceChildren(
    ...used.map((image, place) => {
      const img = image.shown.img.cloneNode();
      return row({ number: numbers[place], file: image.file, img }, running(), now, place);
    }),
  );
  for (const id of ["answer", "details"]) byId(id).hidden = false;
}

/** @param {File} file @returns {Given} an image that is used until it is switched off */
function imageOf(file) {
  const url = URL.createObjectURL(file);
  const image = { file, url, used: true, shown: thumbnail(url) };
  image.shown.box.addEventListener("change", () => {
    image.used = image.shown.box.checked;
    refresh();
  });
  image.shown.remove.addEventListener("click", () => remove(image));
  return image;
}

/** @param {Given} image */
function remove(image) {
  const index = given.indexOf(image);
  URL.revokeObjectURL(image.url);
  image.shown.item.remove();
  given = given.filter((other) => other !== image);
  label = null;
  refresh();
  const next = given[index] ?? given[index - 1];
  (next ? next.shown.remove : byId("choose")).focus();
}

/** @param {File[]} files */
function add(files) {
  const images = files.map(imageOf);
  given = [...given, ...images];
  byId("strip").append(...images.map(({ shown }) => shown.item));
}

/**
 * @param {File} file
 * @returns {string|null} why it can't be sent
 */
function fault({ name, type, size }) {
  const { max_image_bytes: most } = models;
  if (type && !type.startsWith("image/")) return `${name} is not an image.`;
  return size > most ? `${name} has ${bytes(size)}; an image may have ${bytes(most)}.` : null;
}

/** @param {File[]} files @returns {File[]} those that fit into a request with what is at hand */
function fitting(files) {
  let left = models.max_request_bytes - FORM_BYTES;
  for (const { file } of given) left -= file.size + FORM_BYTES;
  return files.filter(({ size }) => {
    if (size + FORM_BYTES > left) return false;
    left -= size + FORM_BYTES;
    return true;
  });
}

/** Take images of a person, as many as fit. @param {Iterable<File>} files */
function take(files) {
  const faults = [...files].map(fault);
  const fine = [...files].filter((_, index) => faults[index] === null);
  const few = fine.slice(0, models.max_images_accepted - given.length);
  const taken = fitting(few);
  if (taken.length) {
    label = null;
    add(taken);
    refresh();
    bringUp();
  }
  const refusals = faults.filter((sentence) => sentence !== null);
  if (few.length < fine.length) {
    const most = counted(models.max_images_accepted, "image");
    refusals.push(`A product may have ${most}: ${fine.length - few.length} left out.`);
  }
  if (taken.length < few.length) {
    const most = bytes(models.max_request_bytes);
    refusals.push(`All images may have ${most} together: ${few.length - taken.length} left out.`);
  }
  complain(refusals);
}

/** Without images, as at first. */
function clear() {
  for (const { url } of given) URL.revokeObjectURL(url);
  [given, answers] = [[], new Map()];
  byId("strip").replaceChildren();
}

/** Scroll to the product, unless it and some of its answer are in sight. */
function bringUp() {
  const { top } = byId("product").getBoundingClientRect();
  if (top < 0 || top > innerHeight / 3) byId("product").scrollIntoView();
}

/** @param {Sample} sample */
function showSample(sample) {
  return attempt(async (signal) => {
    const files = await server.sampleImages(sample, signal);
    clear();
    label = sample.names;
    add(files);
    refresh();
    byId("product-title").focus({ preventScroll: true });
    bringUp();
  });
}

/** Ask for what the server runs, and make the page ready. */
function begin() {
  attempt(async () => {
    const [found, samples] = await Promise.all([server.models(), server.samples()]);
    models = found;
    const most = counted(models.max_images_accepted, "image");
    byId("limits").textContent =
      `Up to ${most} of one product. An image on the clipboard can be pasted.`;
    byId("lead").textContent =
      "All images of a product are looked at together, to find the right one of " +
      `${counted(models.num_categories, "category", "categories")}.`;
    byId("models").replaceChildren(...about(running()));
    byId("explained").textContent = explained(running());
    byId("samples").hidden = samples.length === 0;
    byId("sample-list").replaceChildren(
      ...samples.map((sample) => sampleButton(sample, () => showSample(sample))),
    );
    listen();
  });
}

/** Act on buttons, files that are dropped anywhere, and the clipboard. */
function listen() {
  const inputs = { choose: "files", "use-camera": "camera" };
  for (const [button, input] of Object.entries(inputs)) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", () => {
      take(byId(input).files);
      byId(input).value = ""; // the same file can be chosen again
    });
  }
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) document.body.classList.remove("dragging");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    take(event.dataTransfer?.files ?? []);
  });
  document.addEventListener("paste", ({ clipboardData }) => {
    if (clipboardData?.files.length) take(clipboardData.files);
  });
  byId("over").addEventListener("click", () => {
    clear();
    refresh();
    byId("choose").focus();
  });
  byId("min-confidence").addEventListener("change", refresh);
}

begin();
