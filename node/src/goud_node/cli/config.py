"""The node's settings, with what is wrong in them as one of our errors."""

from __future__ import annotations

from pydantic import ValidationError

from goud_node import settings
from goud_node.errors import ConfigurationError


def load() -> settings.Settings:
    """Raises ConfigurationError."""
    try:
        return settings.load()
    except settings.InvalidSettings as error:
        raise ConfigurationError(str(error)) from None


def data_directory() -> settings.DataDirectory:
    """The few settings of the data directory. Raises ConfigurationError."""
    try:
        return settings.DataDirectory()
    except ValidationError as error:
        raise ConfigurationError(settings.sentence(error)) from None
