"""Settings of every workflow: typed, checked, documented and with their defaults; light to import."""

from fer_mlflow.settings.fields import (
    Field,
    Option,
    Settings,
    fields_of,
    format_value,
    option_name,
    params_of,
    renamed,
    split_names,
)

__all__ = [
    "Field",
    "Option",
    "Settings",
    "fields_of",
    "format_value",
    "option_name",
    "params_of",
    "renamed",
    "split_names",
]
