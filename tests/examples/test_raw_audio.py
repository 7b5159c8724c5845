"""The example reads recordings, learns at one rate and listens at another."""

import io
import json
import tarfile
import wave

import keras
import numpy as np
import pytest
import raw_audio
from signals import audio
from text.tables import InputError

if keras.config.backend() == "numpy":
    pytest.skip("numpy cannot train", allow_module_level=True)

SMALL = (
    "--width 8 --depth 1 --state-dim 8 --batch-size 8 --dropout 0 --epochs 12 "
    "--learning-rate 0.03 --dynamics-factor 1 --weight-decay 0 --verbose 0"
).split()


def wav(samples, rate=8000, channels=1) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())
    return content.getvalue()


def tone(digit: int, random) -> np.ndarray:
    """A tone of 200 Hz for one digit, of 800 for the other, of any length."""
    time = np.arange(random.integers(300, 900)) / audio.SAMPLING_RATE
    phase = random.uniform(0, 2 * np.pi)
    return 9000 * np.sin(2 * np.pi * (200 + 600 * digit) * time + phase)


@pytest.fixture
def archive(tmp_path):
    """Two digits by two speakers, in a folder of an archive."""
    random = np.random.default_rng(0)
    path = tmp_path / "recordings.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        for speaker in ("ada", "bob"):
            for number in range(16):
                for digit in (0, 1):
                    content = wav(tone(digit, random))
                    member = tarfile.TarInfo(
                        f"fsdd/recordings/{digit}_{speaker}_{number}.wav"
                    )
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))
    return path


def run(archive, tmp_path, *more):
    output = tmp_path / "output"
    arguments = ["--data", archive, "--output", output, *SMALL, *more]
    return raw_audio.main([str(v) for v in arguments]), output


def test_it_learns_at_one_rate_and_listens_at_half_of_it(
    archive, tmp_path, capsys
):
    code, output = run(archive, tmp_path)
    assert code == 0
    results = json.loads((output / "results.json").read_text())
    assert results["test_accuracy"] >= 0.9
    assert results["half_rate_accuracy"] >= 0.9
    assert np.sum(results["confusion"]) == 20
    assert len(results["history"]["val_accuracy"]) == 12
    printed = capsys.readouterr().out
    assert f"{results['half_rate_accuracy']:.2%}  at 4,000 Hz" in printed
    assert (output / "report.png").read_bytes().startswith(b"\x89PNG")
    model = keras.models.load_model(output / "model.keras", compile=False)
    recordings = audio.read(str(archive))
    test = recordings.rows(recordings.numbers <= audio.LAST_OF_TEST)
    options = raw_audio.parse(SMALL)
    found = raw_audio.predict(model, test, options)
    assert np.mean(found == test.digits) == results["test_accuracy"]


def test_each_speaker_in_turn_is_a_stranger(archive, tmp_path, capsys):
    few = ("--held-out-speaker", "all", "--epochs", "1")
    code, output = run(archive, tmp_path, *few)
    assert code == 0
    assert "Mean over the speakers" in capsys.readouterr().out
    for speaker in ("ada", "bob"):
        results = json.loads((output / speaker / "results.json").read_text())
        assert np.sum(results["confusion"]) == 32


def test_the_data_set_is_downloaded_where_none_is_given(
    archive, tmp_path, monkeypatch
):
    asked = []

    def get_file(name, address, **options):
        asked.append(address)
        return str(archive)

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    monkeypatch.setattr(raw_audio, "run_split", lambda *arguments: {})
    assert raw_audio.main(["--output", str(tmp_path / "output")]) == 0
    assert asked == [raw_audio.ADDRESS]


def test_a_folder_is_read_as_an_archive_is(archive, tmp_path):
    with tarfile.open(archive) as file:
        file.extractall(tmp_path / "folder", filter="data")
    one, other = (audio.read(str(v)) for v in (archive, tmp_path / "folder"))
    assert len(one) == len(other) == 64
    for a, b in zip(one.waveforms, other.waveforms, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.digits, other.digits)
    assert np.mean(one.waveforms[0] ** 2) == pytest.approx(1)


def test_half_the_rate_is_half_the_samples_and_keeps_what_is_low(archive):
    recordings = audio.read(str(archive)).rows([0])
    halved = recordings.at_half_rate().waveforms[0]
    assert len(halved) == (len(recordings.waveforms[0]) + 1) // 2
    # Away from the ends, where the filter has no neighbours.
    np.testing.assert_allclose(
        halved[20:-20], recordings.waveforms[0][::2][20:-20], atol=0.02
    )
    noise = np.cos(np.pi * 0.9 * np.arange(400)).astype("float32")
    high = audio.Recordings([noise], *[np.zeros(1, int)] * 3)
    assert np.abs(high.at_half_rate().waveforms[0][20:-20]).max() < 0.05


def test_batches_hold_every_recording_once_behind_few_lengths(archive):
    recordings = audio.read(str(archive))
    batches = audio.PaddedBatches(recordings, 8, seed=0, speed=0.2, noise=0.1)
    first = batches.order
    batches.on_epoch_end()
    assert sorted(first) == sorted(batches.order) == list(range(64))
    assert list(first) != list(batches.order)
    for i in range(len(batches)):
        signals, digits = batches[i]
        assert signals.shape[1] == 1024
        padded = signals[..., 0] == audio.PADDING
        assert (np.diff(padded.astype(int), axis=1) >= 0).all()
        rows = batches.batches[i]
        lengths = batches.lengths[rows]
        shares = (~padded).sum(axis=1) / lengths
        assert (shares > 1 / 1.25).all() and (shares < 1.25).all()
        np.testing.assert_array_equal(digits, recordings.digits[rows])
    as_they_are = audio.PaddedBatches(recordings, 64)[0][0]
    assert (as_they_are[-1, : max(batches.lengths), 0] != audio.PADDING).all()


def test_padded_lengths_are_two_to_an_octave():
    lengths = [audio.padded_length(n) for n in (1, 1025, 1537, 3357, 18262)]
    assert lengths == [1024, 1536, 2048, 4096, 24576]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("notes.txt", b"", "there are no recordings in"),
        ("1_ada_0.wav", b"nothing", "is no WAV file"),
        ("1_ada_0.wav", wav([1, 2], rate=44100), "has 1 of 16 bits at 44,100"),
        ("1_ada_0.wav", wav([1, 2], channels=2), "has 2 of 16 bits at 8,000"),
        ("1_ada_0.wav", wav([0, 0]), "is silent"),
        ("1_ada_9.wav", wav([1, 2]), "has 1 recordings to learn from and 0"),
    ],
)
def test_bad_recordings_get_a_sentence(
    tmp_path, capsys, name, content, sentence
):
    folder = tmp_path / "recordings"
    folder.mkdir()
    (folder / name).write_bytes(content)
    code, output = run(folder, tmp_path)
    assert code == 2
    assert sentence in capsys.readouterr().err
    assert not (output / "results.json").exists()


def test_bad_arguments_get_a_sentence(archive, tmp_path, capsys):
    code, _ = run(archive, tmp_path, "--held-out-speaker", "eve")
    assert code == 2
    assert "nobody called eve. There are: ada, bob" in capsys.readouterr().err
    (tmp_path / "broken.tar.gz").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read"):
        audio.read(str(tmp_path / "broken.tar.gz"))
