"""A table that is not LEGO, from a web server to an S3 server, in TOML alone: pipelines/orders.toml."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import subprocess
import sys
import zipfile
from decimal import Decimal
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from main import Pipeline
from tests.conftest import PROJECT, Bucket
from tests.web import WebServer

ORDERS = """\
Order No;Order Date;Customer E-mail;Country;Product;Quantity;Unit Price;Discount
NL-000001;31.01.2024;ann@example.com;Holland;  Castle  grey;2;1.234,50 €;12,5 %
NL-000002;2024-02-01;bob@example.org;Netherlands;Ship;1;9,99;-
NL-000002;2024-02-01;bob@example.org;Netherlands;Ship;1;9,99;-
NL-000002;2024-02-01;bob@example.org;Netherlands;Ship;3;9,99;-
DE-000003;01.02.2024;cid@example.net;BRD;TEST article;1;1,00;
DE-000004;31.02.2024;dan@example.net;Germany;Ship;1;1,00;
DE-000005;01.03.2024;eve;Atlantis;Ship;0;5,00 EUR;150%
"""


@pytest.fixture
def orders(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("S3_BUCKET", bucket.name)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("orders.csv", ORDERS)
    with WebServer() as web:
        web.serve("/orders.zip", packed.getvalue())
        url = web.url("/orders.zip")
        yield Pipeline.from_file(
            PROJECT / "pipelines" / "orders.toml", [f"extract.url={url}", "max_rejects=50%", "extract.batch_rows=2"]
        )


def test_orders(orders: Pipeline, bucket: Bucket) -> None:
    report = orders.run()
    assert "read 7 = published 2 + rejected 3 + dropped 2" in report.summary()
    table = pq.read_table(io.BytesIO(bucket.body("orders/orders.parquet"))).to_pylist()
    assert table == [
        {
            "order_no": "NL-000001",
            "order_date": dt.date(2024, 1, 31),
            "customer": "an",
            "mail_domain": "example.com",
            "country": "Netherlands",
            "product": "Castle grey",
            "quantity": 2,
            "unit_price": Decimal("1234.50"),
            "discount": Decimal("0.1250"),
            "revenue": 2160.38,
        },
        {
            "order_no": "NL-000002",
            "order_date": dt.date(2024, 2, 1),
            "customer": "bo",
            "mail_domain": "example.org",
            "country": "Netherlands",
            "product": "Ship",
            "quantity": 1,
            "unit_price": Decimal("9.99"),
            "discount": Decimal("0.0000"),
            "revenue": 9.99,
        },
    ]


def test_every_row_that_left_has_its_reason(orders: Pipeline, bucket: Bucket) -> None:
    report = orders.run()
    dropped = {step.step: dict(step.dropped) for step in report.steps if step.dropped}
    assert dropped == {
        "FilterRows": {'does not hold: not starts_with(product, "TEST")': 1},
        "DropDuplicates": {"identical repeat of order_no, product": 1},
    }
    [key] = [key for key in bucket.objects() if "_rejects" in key]
    rejects = [json.loads(line) for line in bucket.body(key).splitlines()]
    assert sorted((reject["row"], reject["step"], reject["column"], reject["rule"]) for reject in rejects) == [
        (4, "DropDuplicates", "order_no, product", "the same came before with other facts"),
        (6, "ParseDates", "order_date", "not a date like %d.%m.%Y or %Y-%m-%d"),
        (7, "Contract", "country", "not one of Austria, Belgium, Germany, Netherlands"),
        (7, "Contract", "discount", "above 1"),
        (7, "Contract", "quantity", "below 1"),
    ]
    # MaskColumns masks "customer", which SplitColumn made of this column.
    assert {(reject["raw"]["Customer E-mail"], *reject["hidden"]) for reject in rejects} == {("***", "Customer E-mail")}


def test_the_result_does_not_depend_on_the_batches(orders: Pipeline, bucket: Bucket) -> None:
    first = orders.run()
    large = orders.extractor.model_copy(update={"batch_rows": 65_536})
    again = Pipeline(orders.name, large, orders.transformers, orders.loader, orders.max_rejects).run(force=False)
    assert first.published is not None
    assert again.published is not None
    assert again.published.sha256 == first.published.sha256


def test_building_the_steps_loads_neither_pandas_nor_pyarrow() -> None:
    """A run that finds nothing new should not wait for them."""
    code = """
import sys
from main import Pipeline
Pipeline.from_file("pipelines/orders.toml", ["load.bucket=my-bucket"])
print([name for name in ("pandas", "pyarrow", "numpy") if name in sys.modules])
"""
    environment = {**os.environ, "S3_BUCKET": "my-bucket"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_reading_it_again_with_pandas_gives_the_declared_types(orders: Pipeline, bucket: Bucket) -> None:
    orders.run()
    table = pd.read_parquet(io.BytesIO(bucket.body("orders/orders.parquet")), dtype_backend="pyarrow")
    assert {name: str(table[name].dtype) for name in ("order_date", "unit_price", "quantity")} == {
        "order_date": "date32[day][pyarrow]",
        "unit_price": "decimal128(10, 2)[pyarrow]",
        "quantity": "int32[pyarrow]",
    }
