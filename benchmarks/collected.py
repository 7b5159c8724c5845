"""Runs of examples, collected in a record: what the `..._runs.py` share."""

import argparse
import json
import pathlib


def collect(description: str, path: pathlib.Path, read, key) -> dict:
    """Adds the runs in the folders of the command line to a record.

    Args:
        description: What the command does; its first line is shown.
        path: The record.
        read: From a folder to its runs, without the machine they ran on.
        key: What tells runs apart: one that was repeated takes the place of
            the first.

    Returns:
        The record, as it is now.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--machine", required=True, help="what ran them")
    options = parser.parse_args()
    record = json.loads(path.read_text()) if path.exists() else {"runs": []}
    found = [
        run | {"machine": options.machine}
        for folder in options.folders
        for run in read(folder)
    ]
    runs = {key(run): run for run in record["runs"] + found}
    record["runs"] = [runs[name] for name in sorted(runs)]
    path.write_text(json.dumps(record, indent=1) + "\n")
    return record
