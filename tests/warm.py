"""Imported once by the process from which those of ``tests.processes`` are forked: what a run to S3 loads anyway."""

from __future__ import annotations

import etl.config
import etl.engine
import etl.extractors.files
import etl.files.readers
import etl.formats.encoders
import etl.loaders.s3
import etl.s3.dataset
import etl.s3.object
import etl.s3.parts
import etl.s3.sending
import etl.s3.upload  # noqa: F401
from etl.aws import _data_loader

for kind in ("service-2", "endpoint-rule-set-1"):  # most of the time in which a client is made
    _data_loader().load_service_model("s3", kind)
