"""Random changes of a live Active Directory against a model, an hour for each way of following it.

`SOAK_MODEL_SECONDS` says how long, `MODEL_SEED` by which random numbers (else others each time; a failure tells them).
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest
from flask import Flask

from broker.context import acting, system
from tests.journeys.test_directory_model import MODES, try_for
from tests.upstreams.samba import Service

SECONDS = float(os.environ.get("SOAK_MODEL_SECONDS", "3600"))


@pytest.mark.soak
@pytest.mark.parametrize(("mode", "service"), MODES)
def test_for_an_hour_the_directory_is_what_the_model_says(
    engines: Flask, mode: str, service: Service, tmp_path: Path
) -> None:
    seed = os.environ.get("MODEL_SEED") or secrets.token_hex(4)
    with engines.app_context(), acting(system("soak")):
        compared = try_for(mode, service, SECONDS, seed, tmp_path)
    print(f"{mode}: {compared} deltas in {SECONDS:.0f} s, seed {seed}: all as the model says")
    assert compared > SECONDS / 60
