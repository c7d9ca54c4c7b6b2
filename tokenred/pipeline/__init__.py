"""From a config to reduced tokens: the only orchestration there is."""

from tokenred.pipeline.calibrate import calibrate
from tokenred.pipeline.config import PipelineConfig, load_config, pipeline_schema
from tokenred.pipeline.pipeline import Pipeline, load_pipeline

__all__ = [
    "Pipeline",
    "PipelineConfig",
    "calibrate",
    "load_config",
    "load_pipeline",
    "pipeline_schema",
]
