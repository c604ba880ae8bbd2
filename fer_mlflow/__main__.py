"""`python -m fer_mlflow`: what MLproject starts, since it works in a folder that is not installed."""

from fer_mlflow.cli import main

if __name__ == "__main__":
    main()
