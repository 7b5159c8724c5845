"""Recordings of spoken digits: 16-bit WAV files, in a folder or an archive."""

import dataclasses
import io
import os
import re
import tarfile
import wave

import keras
import numpy as np
from scipy.signal import resample_poly
from text.tables import InputError

# What one file is called: digit, speaker, number of the recording.
NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")
# Behind the end of a recording; `keras.layers.Masking` finds it again.
PADDING = -1000.0
# Recordings of this number and lower are for testing.
LAST_OF_TEST = 4
SAMPLING_RATE = 8000  # Hz


@dataclasses.dataclass(frozen=True)
class Recordings:
    """Waveforms `(l,)` of unequal lengths, and what is known about them."""

    waveforms: list[np.ndarray]
    digits: np.ndarray
    speakers: np.ndarray
    numbers: np.ndarray

    def __len__(self):
        return len(self.waveforms)

    def rows(self, chosen) -> "Recordings":
        """Some of the recordings, by a boolean array or by row numbers."""
        chosen = np.arange(len(self))[chosen]
        return Recordings(
            [self.waveforms[row] for row in chosen],
            self.digits[chosen],
            self.speakers[chosen],
            self.numbers[chosen],
        )

    def at_half_rate(self) -> "Recordings":
        """The same recordings with every other sample, without aliasing."""
        halves = [
            resample_poly(waveform, 1, 2).astype("float32")
            for waveform in self.waveforms
        ]
        return dataclasses.replace(self, waveforms=halves)


def read(path: str) -> Recordings:
    """Returns every recording below a folder, or in a tar archive of one.

    Raises:
        InputError: if there are none, or one of them cannot be used.
    """
    found = {}
    for name, content in files(path):
        match = NAME.fullmatch(os.path.basename(name))
        if match:
            digit, speaker, number = match.groups()
            found[int(digit), speaker, int(number)] = decode(name, content)
    if not found:
        raise InputError(
            f"--data: there are no recordings in {path}. Their names look "
            "like 7_jackson_32.wav: digit, speaker, number."
        )
    digits, speakers, numbers = zip(*sorted(found), strict=True)
    return Recordings(
        [found[key] for key in sorted(found)],
        np.array(digits, "int32"),
        np.array(speakers),
        np.array(numbers, "int32"),
    )


def files(path: str):
    """Yields `(name, bytes)` of the WAV files; nothing is unpacked to disk."""
    try:
        if os.path.isdir(path):
            for folder, _, names in os.walk(path):
                for name in names:
                    if name.endswith(".wav"):
                        with open(os.path.join(folder, name), "rb") as file:
                            yield name, file.read()
        else:
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.isfile() and member.name.endswith(".wav"):
                        yield member.name, archive.extractfile(member).read()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise InputError(f"--data: {path} cannot be read: {error}.") from error


def decode(name: str, content: bytes) -> np.ndarray:
    """The waveform with mean square 1, so that loudness says nothing."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            form = file.getnchannels(), file.getsampwidth(), file.getframerate()
            frames = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise InputError(f"{name} is no WAV file: {error}.") from error
    if form != (1, 2, SAMPLING_RATE):
        channels, width, rate = form
        raise InputError(
            f"{name} must have one channel of 16 bits at {SAMPLING_RATE:,} Hz, "
            f"but has {channels} of {8 * width} bits at {rate:,} Hz."
        )
    waveform = np.frombuffer(frames, "<i2").astype("float32")
    power = np.sqrt(np.mean(waveform**2)) if len(waveform) else 0
    if not power:
        raise InputError(f"{name} is silent.")
    return waveform / power


class PaddedBatches(keras.utils.PyDataset):
    """Recordings of similar length in batches, padded to a few lengths.

    Each length is a program to compile, on JAX and TensorFlow.

    Args:
        recordings: `Recordings`.
        batch_size: most recordings of a batch.
        seed: for an order, speeds and noise that change with every epoch;
            `None` for sorted recordings as they are.
        speed: how much faster or slower than it is a recording may be played.
        noise: the noise's amplitude beside the recording's, at most.
    """

    def __init__(self, recordings, batch_size, seed=None, speed=0.0, noise=0.0):
        super().__init__()
        self.recordings = recordings
        self.lengths = np.array([len(w) for w in recordings.waveforms])
        self.batch_size = batch_size
        self.random = None if seed is None else np.random.default_rng(seed)
        self.speed, self.noise = speed, noise
        self.on_epoch_end()

    def on_epoch_end(self):
        lengths = self.lengths.astype(float)
        if self.random is not None:
            lengths *= self.random.uniform(0.8, 1.25, len(lengths))
        order = np.argsort(lengths, kind="stable")
        starts = range(0, len(order), self.batch_size)
        self.batches = [order[i : i + self.batch_size] for i in starts]
        if self.random is not None:
            self.random.shuffle(self.batches)

    def __len__(self):
        return len(self.batches)

    @property
    def order(self):
        """The row numbers, in the order of the batches."""
        return np.concatenate(self.batches)

    def __getitem__(self, index):
        rows = self.batches[index]
        waveforms = [self._vary(self.recordings.waveforms[row]) for row in rows]
        length = padded_length(max(map(len, waveforms)))
        signals = np.full((len(rows), length, 1), PADDING, "float32")
        for signal, waveform in zip(signals, waveforms, strict=True):
            signal[: len(waveform), 0] = waveform
        return signals, self.recordings.digits[rows]

    def _vary(self, waveform):
        if self.random is None:
            return waveform
        factor = np.exp(self.random.uniform(-1, 1) * np.log1p(self.speed))
        places = np.arange(0, max(len(waveform) - 1, 1), factor)
        waveform = np.interp(places, np.arange(len(waveform)), waveform)
        noise = self.random.uniform(0, self.noise)
        waveform += noise * self.random.standard_normal(len(waveform))
        return waveform.astype("float32")


def padded_length(length: int) -> int:
    """The next of 1024, 1536, 2048, 3072, ...: two to an octave."""
    size = 1024
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return size
