"""A project's settings either have an effect or are refused by name."""

from typing import Any

import pytest

from themis.errors import SpecValidationError
from themis.specs import ProjectSpec
from themis.specs.loading import validate_spec


def project(**changes: Any) -> ProjectSpec:
    body = {
        "project_name": "p",
        "researcher_id": "r",
        "global_seed": 1,
        "storage": {"backend": "sqlite_blob", "root_dir": "store"},
    }
    return validate_spec(ProjectSpec, {**body, **changes}, source="project.toml")


def test_storage_without_compression_is_refused_and_zstd_is_the_default() -> None:
    storage = {"backend": "sqlite_blob", "root_dir": "store"}

    assert project(storage={**storage, "compression": "zstd"}) == project()
    with pytest.raises(SpecValidationError, match=r"compression: payloads are always compressed"):
        project(storage={**storage, "compression": "none"})


def test_an_unknown_error_code_is_refused_with_the_known_ones() -> None:
    policy = project(execution_policy={"retryable_error_codes": ["provider_timeout"]})

    assert policy.execution_policy.retryable_error_codes == ["provider_timeout"]
    with pytest.raises(SpecValidationError, match=r"no error code 'timeout'.*provider_timeout"):
        project(execution_policy={"retryable_error_codes": ["timeout"]})
