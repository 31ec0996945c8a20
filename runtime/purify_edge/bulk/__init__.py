"""purify-ray: bulk runs on Ray Data; `BulkPurifier` for your own Ray datasets.

The class is imported when it is first used, so that the command starts fast.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from purify_edge.bulk.purifier import BulkPurifier

__all__ = ["BulkPurifier"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from purify_edge.bulk import purifier

    return getattr(purifier, name)
