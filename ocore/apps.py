from django.apps import AppConfig


class OcoreConfig(AppConfig):
    name = "ocore"
    verbose_name = "oCore"

    def ready(self) -> None:
        from ocore import checks  # noqa: F401 - registers them
