"""Measures exported models: how fast they are served, and what int8 does.

    python benchmarks/serving.py --parts speed int8

`speed`: a classifier of bytes with two Mamba blocks, as README has it, is
written as a SavedModel, plain and with `jit_compile=True`. TensorFlow alone
serves it, beside the live model: a whole batch against `model.predict` on the
TensorFlow backend, and one token of a stream against the step of every
backend. The step is also a file for onnxruntime and one for LiteRT. Processes
take turns; times are the fastest of all rounds.

`int8`: the classifier learns from film reviews, then counts what it gets right
of others, before and after `model.quantize("int8")`.

Everything goes into `results/serving.json`.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import machine
import numpy as np
import processes

RECORD = pathlib.Path(__file__).parent / "results" / "serving.json"
BACKENDS = ("jax", "tensorflow", "torch")
BATCH, LENGTH, WIDTH = 8, 512, 64
SAMPLES, CALLS = 25, 40
FILES = {"onnx": ".onnx", "litert": ".tflite"}
INT8 = {"reviews": 4000, "tests": 4000, "length": 256, "epochs": 3}


def main():
    options = parse()
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for part in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            measured = PARTS[part](folder, options)
        record[part] = {**machine.describe(), **measured}
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(measured, indent=1))


def speed(folder, options) -> dict:
    """Milliseconds of whole batches, microseconds of steps."""
    call("write", folder, "tensorflow")
    found = {"load": [machine.load()], "batch": [BATCH, LENGTH], "times": {}}
    for _ in range(options.rounds):
        for what, backend in [
            *(("live", backend) for backend in BACKENDS),
            ("served", "tensorflow"),
            ("files", "tensorflow"),
        ]:
            for name, seconds in call(what, folder, backend).items():
                before = found["times"].get(name, seconds)
                found["times"][name] = min(before, seconds)
        found["load"].append(machine.load())
    times = found["times"]
    steps = [v for k, v in times.items() if k.startswith("live step")]
    for way in ("plain", "compiled"):
        found[f"{way}: batch / predict"] = round(
            times[f"served batch, {way}"] / times["predict, tensorflow"], 2
        )
    for name in ("plain", "compiled", *FILES):
        found[f"{name}: step / best live step"] = round(
            times[f"served step, {name}"] / min(steps), 2
        )
    return found


def int8(folder, options) -> dict:
    """Accuracy and bytes of the same model, before and after."""
    return {**INT8, **call("learn", folder, options.backend)}


def call(what, folder, backend) -> dict:
    """Runs one of `JOBS` in a process of its own."""
    environment = processes.environment(backend, OMP_NUM_THREADS="1")
    path = pathlib.Path(folder) / "answer.json"
    program = [sys.executable, __file__, "--job", what, "--folder", folder]
    subprocess.run(program, env=environment, check=True)
    return json.loads(path.read_text())


def make_model():
    """The classifier, untrained."""
    import keras

    import keras_ssm

    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="bytes"),
            keras.layers.Embedding(256, WIDTH, mask_zero=True),
            keras_ssm.layers.MambaBlock(),
            keras_ssm.layers.MambaBlock(),
            keras.layers.LayerNormalization(epsilon=1e-5),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )


def write(folder):
    """The model, and its SavedModels."""
    import keras_ssm

    model = make_model()
    model.save(folder / "model.keras")
    for way, jit_compile in (("plain", False), ("compiled", True)):
        keras_ssm.export(
            model,
            folder / way,
            endpoints=("serve", "init", "step"),
            jit_compile=jit_compile,
        )
    for format, suffix in FILES.items():
        path = folder / f"step{suffix}"
        keras_ssm.export(model, path, format=format, endpoints="step")
    return {}


def live(folder):
    """The step of this backend, and on TensorFlow `predict`."""
    import keras

    import keras_ssm
    from keras_ssm.ops.dispatch import compiled

    backend = keras.config.backend()
    model = keras.models.load_model(folder / "model.keras")
    stream = keras_ssm.Stream(model)
    program = compiled(stream.step, backend == "jax")
    state = stream.get_initial_state(1)

    def step():
        nonlocal state
        y, state = program(np.array([65], "int32"), state)
        return keras.ops.convert_to_numpy(y)

    found = {f"live step, {backend}": fastest(step)}
    if backend == "tensorflow":
        tokens = batch()
        found["predict, tensorflow"] = fastest(
            lambda: model.predict_on_batch(tokens), 1
        )
    return found


def served(folder):
    """Both SavedModels, by TensorFlow alone."""
    import tensorflow as tf

    found, tokens = {}, batch()
    for way in ("plain", "compiled"):
        model = tf.saved_model.load(str(folder / way))
        signature, state = model.signatures["step"], dict(model.init(1))

        def step(signature=signature, state=state):
            token = tf.constant([65])
            after = signature(bytes=token, **state)
            y = after.pop("outputs")
            state.update(after)
            return y.numpy()

        def whole(model=model):
            return model.serve(tokens).numpy()

        found[f"served step, {way}"] = fastest(step)
        found[f"served batch, {way}"] = fastest(whole, 1)
    return found


def files(folder):
    """The steps in files, by the interpreters of their formats."""
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    session = onnxruntime.InferenceSession(
        str(folder / "step.onnx"), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    runner = Interpreter(str(folder / "step.tflite")).get_signature_runner()

    def run_onnx(**inputs):
        return dict(zip(names, session.run(None, inputs), strict=True))

    found = {}
    for format, run in (("onnx", run_onnx), ("litert", runner)):
        inputs = {
            v.name: np.zeros([1, *v.shape[1:]], "float32")
            for v in session.get_inputs()
        }
        inputs["bytes"] = np.array([65], "int32")

        def step(run=run, inputs=inputs):
            after = run(**inputs)
            after.pop("outputs")
            for name, value in after.items():
                inputs[name.removeprefix("next_")] = value

        found[f"served step, {format}"] = fastest(step)
    return found


def learn(folder):
    """Trains, and tests with float32 and with int8."""
    examples = pathlib.Path(__file__).parent.parent / "examples"
    sys.path.insert(0, str(examples))
    import keras
    from text import tables

    data, sizes = tables.read_default(), (INT8["reviews"], INT8["tests"])
    rows = np.random.default_rng(0).permutation(len(data))[: sum(sizes)]
    tokens = np.zeros((len(rows), INT8["length"]), "int32")
    for index, row in enumerate(rows):
        text = data.texts[row].encode()[: INT8["length"]]
        tokens[index, : len(text)] = np.frombuffer(text, "uint8")
    labels = np.array([data.labels[row] == "positive" for row in rows])
    model, first = make_model(), sizes[0]
    model.compile(
        keras.optimizers.Adam(4e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    start = time.perf_counter()
    model.fit(
        *(tokens[:first], labels[:first]),
        epochs=INT8["epochs"],
        batch_size=32,
        verbose=2,
    )
    found = {"seconds of training": round(time.perf_counter() - start)}
    expected = model.predict(tokens[first:], verbose=0)
    found["float32"] = _graded(model, expected, labels[first:], folder)
    model.quantize("int8")
    outputs = model.predict(tokens[first:], verbose=0)
    found["int8"] = _graded(model, outputs, labels[first:], folder)
    same = outputs.argmax(1) == expected.argmax(1)
    return {**found, "same class": round(float(same.mean()), 4)}


def _graded(model, outputs, labels, folder):
    """Accuracy, bytes of the weights, and of the file."""
    path = folder / "model.keras"
    model.save(path, include_optimizer=False)
    sizes = {"float32": 4, "int8": 1}
    weights = sum(sizes[v.dtype] * np.prod(v.shape) for v in model.weights)
    return {
        "accuracy": round(float((outputs.argmax(1) == labels).mean()), 4),
        "bytes of weights": int(weights),
        "bytes of the file": path.stat().st_size,
    }


def batch():
    """Bytes of a batch, none of them padding."""
    shape = (BATCH, LENGTH)
    return np.random.default_rng(0).integers(1, 256, shape).astype("int32")


def fastest(run, calls: int = CALLS) -> float:
    """Microseconds of a call, the fastest of all samples."""
    for _ in range(3):
        run()
    found = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        for _ in range(calls):
            run()
        found.append((time.perf_counter() - start) / calls)
    return round(1e6 * min(found), 1)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--rounds", type=int, default=2, help="of all processes")
    add("--backend", default="torch", help="that learns")
    add("--job", choices=JOBS, help="of a process of this command")
    add("--folder", type=pathlib.Path, help="of that process")
    return parser.parse_args()


PARTS = {"speed": speed, "int8": int8}
JOBS = {
    "write": write,
    "live": live,
    "served": served,
    "files": files,
    "learn": learn,
}


if __name__ == "__main__":
    options = parse()
    if options.job:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        answer = JOBS[options.job](options.folder)
        (options.folder / "answer.json").write_text(json.dumps(answer))
    else:
        main()
