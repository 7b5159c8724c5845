"""Does what docs/start.md says, as somebody who has only that page.

    python docs/try_start.py torch --wheel build/wheel/keras_ssm-....whl

A new environment in an empty folder gets the wheel as the page says; then the
blocks under "Serve" run in a process without Keras, those before in one of
their own. `--first` is installed before: a build of PyTorch for a CPU, say.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import venv

PAGE = pathlib.Path(__file__).parent / "start.md"
# Without these, `import` fails as on a machine that lacks them.
ALONE = """import sys
for name in ("keras", "keras_ssm", "torch", "jax"):
    sys.modules[name] = None
"""


def main():
    options = parse()
    (packages,) = re.findall(
        rf'pip install "keras-ssm\[{options.backend}\]"(.*)', PAGE.read_text()
    )
    wheel = f"{options.wheel.resolve()}[{options.backend}]"
    with tempfile.TemporaryDirectory() as folder:
        venv.create(pathlib.Path(folder) / "venv", with_pip=True)
        python = pathlib.Path(folder) / "venv" / "bin" / "python"
        pip = [python, "-m", "pip", "install", "--quiet"]
        if options.first:
            run("first", [*pip, *options.first], folder)
        run("install", [*pip, wheel, *packages.split()], folder)
        for name, text in programs().items():
            (pathlib.Path(folder) / name).write_text(text)
            environment = {"KERAS_BACKEND": options.backend}
            run(name, [python, name], folder, environment)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backend", choices=["torch", "jax", "tensorflow"])
    parser.add_argument("--wheel", type=pathlib.Path, required=True)
    parser.add_argument("--first", nargs="*", help="packages before it")
    return parser.parse_args()


def programs():
    """The page's blocks of Python, before and below "Serve"."""
    page, served = PAGE.read_text().split("\n## Serve\n")
    before, after = (
        "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))
        for text in (page, served)
    )
    return {"train.py": before, "serve.py": ALONE + after}


def run(what, command, folder, environment=()):
    """Runs a command in a folder, without what this process knows."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    print(f"== {what}", flush=True)
    start = time.perf_counter()
    environment = {**clean, **dict(environment)}
    subprocess.run(command, cwd=folder, env=environment, check=True)
    print(f"== {what}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
