"""Batch ETL from a table anywhere to S3: extractors, transformers, loaders."""
