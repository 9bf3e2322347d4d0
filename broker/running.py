"""What this process was assembled with: its configuration and its vault, for rooms that need them at work.

Assembly installs both in the Flask app once; everything below reads them here and never the environment.
"""

from __future__ import annotations

from typing import cast

from flask import Flask, current_app

from .config import Config
from .vault import Vault

_CONFIG, _VAULT = "scaikey.config", "scaikey.vault"


def install(app: Flask, config: Config) -> None:
    app.extensions[_CONFIG] = config
    app.extensions[_VAULT] = Vault(config.secret_key)


def config() -> Config:
    return cast(Config, current_app.extensions[_CONFIG])


def vault() -> Vault:
    return cast(Vault, current_app.extensions[_VAULT])
