"""Against servers of our own making; the last test against a real one, where MONGODB_URI is."""

import logging
import os
import re
import secrets
from pathlib import Path
from typing import Any

import bson
import pytest
from pymongo import MongoClient
from pymongo.errors import ConfigurationError, OperationFailure, ServerSelectionTimeoutError

from product_mil.errors import UserError
from product_mil.sources import mongo
from product_mil.sources.mongo_address import parse
from product_mil.sources.opening import check_sources, open_catalogue, source_files
from tests.sources.fake_mongo import Server
from tests.sources.of_products import PRODUCTS, Product, as_contents, contents, jpeg, record
from tests.sources.wire_mongo import served

ADDRESS = "mongodb://shop.example:27018/shop.products"


def documents(products: list[Product]) -> list[dict[str, Any]]:
    return [{**record(product), "title": "not needed"} for product in products]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(tmp_path / "cache"))
    made = Server(products=documents(PRODUCTS[::-1]))
    monkeypatch.setattr(mongo, "MongoClient", made.connect)
    monkeypatch.setattr(mongo, "_PAUSE_S", 0.0)
    monkeypatch.setattr(mongo, "_SAVE_BYTES", 1)
    return made


def opened(spec: str = ADDRESS) -> Any:
    return contents(open_catalogue(spec))


def test_a_collection(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = open_catalogue(ADDRESS)
    assert contents(found) == as_contents()
    assert found.product_id.tolist() == [7, 8, 9, 11]  # in the order of _id
    assert found.paths == (Path("shop.example:27018/shop.products"),)
    assert "the copy of shop.example:27018/shop.products has 4 documents" in caplog.text
    assert server.asked["uri"] == "mongodb://shop.example:27018/shop"
    assert server.sent == 4
    with caplog.at_level(logging.INFO):
        assert opened() == as_contents()
    assert server.sent == 4  # nothing has changed
    assert re.search(
        r"its copy of \d{4}-\d\d-\d\d \d\d:\d\d is read, .*collection\.bson", caplog.text
    )
    check_sources(ADDRESS)
    assert contents(open_catalogue([ADDRESS])) == as_contents()
    with pytest.raises(UserError, match="name a MongoDB collection alone"):
        open_catalogue([ADDRESS, "a.bson"])
    assert source_files(ADDRESS) == []


def test_fields_of_other_names(server: Server) -> None:
    server.collections["items"] = [
        {
            "_id": bson.ObjectId(),
            "sku": 7,
            "shelf": {"id": 5},
            "photos": [{"data": b"a"}, {"x": 1}],
        },
        {"_id": bson.ObjectId(), "sku": 8, "photos": []},
    ]
    fields = "#id=sku,category=shelf.id,images=photos.data"
    found = open_catalogue(ADDRESS.replace("products", "items") + fields)
    assert contents(found) == {7: (5, [b"a"]), 8: (found.category_id[1].item(), [])}
    server.collections["plain"] = [{"_id": 1, "photo": b"a"}, {"_id": 2, "photo": [b"b", b"c"]}]
    found = open_catalogue(ADDRESS.replace("products", "plain") + "#images=photo")
    assert found.num_images.tolist() == [1, 2]


def test_a_broken_connection_goes_on(server: Server) -> None:
    server.breaks_after = [1, 2, 0]
    assert opened() == as_contents()
    assert server.sent < 4 + 3 + 3  # each time the last one again


def test_a_copy_that_was_stopped_goes_on(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.breaks_after = [2, 0, 0, 0, 0, 0]
    with pytest.raises(UserError, match="connection closed; the same command goes on where"):
        opened()
    (partial,) = (tmp_path / "cache").rglob("partial.bson")
    with partial.open("ab") as file:
        file.write(b"half a record")  # as a process that was killed leaves it
    server.breaks_after, server.sent = [], 0
    assert opened() == as_contents()
    assert server.sent == 3  # the last one that was there, and two more
    assert not partial.exists()


def test_what_the_server_has_since(server: Server) -> None:
    assert opened() == as_contents()
    more = Product(12, 1000, [jpeg(9)])
    server.collections["products"] += documents([more])
    server.sent = 0
    assert opened() == as_contents([*PRODUCTS, more])
    assert server.sent == 2  # only what is new
    del server.collections["products"][0]
    server.sent = 0
    assert opened() == as_contents([*PRODUCTS[:-1], more])
    assert server.sent == 4  # all of it


def test_ids_of_several_types(server: Server) -> None:
    server.breaks_after = [1, 1, 1]
    server.collections["products"] = documents([Product(number, 1, []) for number in (3, 4)])
    server.collections["products"] += [{"_id": bson.ObjectId(), "imgs": []} for _ in range(2)]
    copy = mongo.copy_of_collection(ADDRESS)
    assert len(bson.decode_all(copy.read_bytes())) == 4


def test_a_server_that_is_away(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any, **settings: Any) -> None:
        raise ServerSelectionTimeoutError("No servers found")

    monkeypatch.setattr(mongo, "MongoClient", away)
    with pytest.raises(UserError, match=r"shop\.example:27018/shop\.products: No servers found"):
        opened()
    monkeypatch.setattr(mongo, "MongoClient", server.connect)
    opened()
    monkeypatch.setattr(mongo, "MongoClient", away)
    assert opened() == as_contents()
    assert "cannot be reached (No servers found): its earlier copy is used" in caplog.text


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OperationFailure("x", 13, {"errmsg": "not authorized"}), "the server refuses: not author"),
        (ConfigurationError("bad option"), "bad option"),
    ],
)
def test_a_server_that_refuses(
    server: Server, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def refuses(*_: Any, **settings: Any) -> None:
        raise error

    monkeypatch.setattr(mongo, "MongoClient", refuses)
    with pytest.raises(UserError, match=message):
        opened()
    monkeypatch.setattr(mongo, "MongoClient", server.connect)
    with pytest.raises(UserError, match="there is no such collection, or it is empty"):
        opened(ADDRESS.replace("products", "none"))


def test_the_password_is_no_part_of_the_address(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for check in (check_sources, open_catalogue):
        with pytest.raises(UserError, match="leave the password out") as error:
            check("mongodb://me:secret@shop.example/shop.products")
        assert "secret" not in str(error.value)
        with pytest.raises(UserError, match="has the form") as error:
            check("mongodb://me:secret@shop.example/shop")
        assert "secret" not in str(error.value)
    monkeypatch.setenv("MONGODB_PASSWORD", "secret")
    assert opened("mongodb://me@shop.example/shop.products?authSource=admin") == as_contents()
    assert server.asked["uri"] == "mongodb://shop.example/shop?authSource=admin"
    assert (server.asked["username"], server.asked["password"]) == ("me", "secret")
    for path in (tmp_path / "cache").rglob("*"):
        assert not path.is_file() or b"secret" not in path.read_bytes()


def test_addresses() -> None:
    found = parse("mongodb+srv://a,b:1/shop.old.products?tls=true#images=photos")
    assert (found.uri, found.database) == ("mongodb+srv://a,b:1/shop?tls=true", "shop")
    assert found.collection == "old.products"
    assert found.shown == Path("a,b:1/shop.old.products#images=photos")
    for wrong in ("#sku", "#sku=id", "#id="):
        with pytest.raises(UserError, match="name fields as in #id=sku"):
            parse(ADDRESS + wrong)


def test_a_copy_has_a_bound(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRODUCT_MIL_COPY_GB", "0.000001")
    with pytest.raises(UserError, match="its copy in the cache takes more than"):
        opened()
    monkeypatch.delenv("PRODUCT_MIL_COPY_GB")
    assert opened() == as_contents()


def test_pymongo_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a socket, with documents in several batches."""
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(tmp_path / "cache"))
    made = Server(products=documents(PRODUCTS[::-1]))
    with served(made) as hosts:
        spec = f"mongodb://{hosts}/shop.products"
        assert opened(spec) == as_contents()
        assert made.asked["find"]["projection"] == {"_id": 1, "category_id": 1, "imgs.picture": 1}
        more = Product(12, 1000, [jpeg(9)])
        made.collections["products"] += documents([more])
        assert opened(spec) == as_contents([*PRODUCTS, more])
        assert made.asked["find"]["min"] == {"_id": 11}
        monkeypatch.setattr(mongo, "_PAUSE_S", 0.0)
    monkeypatch.setattr(mongo, "_TIMEOUT_MS", 100)
    assert opened(spec) == as_contents([*PRODUCTS, more])  # the server is away now


@pytest.mark.skipif("MONGODB_URI" not in os.environ, reason="needs a server in MONGODB_URI")
def test_a_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a database of its own, which is dropped."""
    monkeypatch.setenv("PRODUCT_MIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mongo, "_SAVE_BYTES", 1)
    full, name = os.environ["MONGODB_URI"].rstrip("/"), f"product_mil_{secrets.token_hex(4)}"
    secret = re.search(r"//[^:@/]+:([^@/]*)@", full)
    if secret:
        monkeypatch.setenv("MONGODB_PASSWORD", secret[1])
    uri = full if secret is None else full.replace(f":{secret[1]}@", "@")
    with MongoClient[Any](full) as client:
        collection = client[name]["products"]
        try:
            collection.insert_many(documents(PRODUCTS[::-1]))
            assert opened(f"{uri}/{name}.products") == as_contents()
            more = Product(12, 1000, [jpeg(9)])
            collection.insert_many(documents([more]))
            assert opened(f"{uri}/{name}.products") == as_contents([*PRODUCTS, more])
        finally:
            client.drop_database(name)
