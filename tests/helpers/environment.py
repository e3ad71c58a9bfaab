"""Variables of the environment that this package and MLflow read, which must not reach a test from outside."""

VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "HARVEYSEG_REQUIRE_TRACKING",
    "HARVEYSEG_PIPELINE",
    "HARVEYSEG_DEBUG",
    "HARVEYSEG_PROGRESS_SECONDS",
    "HARVEYSEG_ROOT",
    "DVC_ROOT",
    "DVC_EXP_NAME",
)
