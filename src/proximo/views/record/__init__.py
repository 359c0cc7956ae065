"""Videos of a control run's episodes: its best policy beside its latest, with reward and value below."""

from proximo.views.record.every import VideoEvery
from proximo.views.record.record import record

__all__ = ["VideoEvery", "record"]
