"""Settings: from the environment, with all mistakes at once."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from executor.errors import SettingsError
from executor.settings import FILE, ModelSettings, Settings


def test_every_setting_can_be_set_in_the_environment() -> None:
    environ = {
        "WEFT_BASE_DIRECTORY": "/somewhere",
        "WEFT_MODEL_DIRECTORIES": os.pathsep.join(["/a", "/b"]),
        "WEFT_INPUT_DIRECTORY": "/in",
        "WEFT_OUTPUT_DIRECTORY": "/out",
        "WEFT_TEMP_DIRECTORY": "/temp",
        "WEFT_DEVICE": "cuda:1",
        "WEFT_WORKERS": "cuda:0, cuda:1",
        "WEFT_DTYPE": "bfloat16",
        "WEFT_ANCESTRAL_SEED_OFFSET": "0",
        "WEFT_MODEL_BYTES": "6GiB",
        "WEFT_RESERVED_BYTES": "1GiB",
        "WEFT_DEVICE_CACHE_BYTES": "4GiB",
        "WEFT_HOST_CACHE_BYTES": "1000",
        "WEFT_MAX_BATCH_ROWS": "8",
        "WEFT_MAX_PICTURE_PIXELS": "1000",
        "WEFT_LISTEN": "0.0.0.0,::",
        "WEFT_PORT": "80",
        "WEFT_ALLOWED_HOSTS": "weft.example, pictures.example",
        "WEFT_ALLOW_ANONYMOUS": "yes",
        "WEFT_PUBLIC_URL": "https://weft.example/",
        "WEFT_FILE_URL_SECONDS": "60",
        "WEFT_FETCH_URLS": "yes",
        "WEFT_FETCH_BYTES": "1MiB",
        "WEFT_OUTSIDE_PORTS": "443, 8443",
        "WEFT_WEBHOOK_HOSTS": "hooks.lan, 10.0.0.7",
        "WEFT_USER_DIRECTORY": "/user",
        "WEFT_EXTRA_MODEL_PATHS": os.pathsep.join(["/a.yaml", "/b.yaml"]),
        "WEFT_CUSTOM_NODES": "no",
        "WEFT_FRONT_END_ROOT": "/web",
        "WEFT_PREVIEW_METHOD": "taesd",
        "WEFT_MODEL_HASHES": "yes",
        "WEFT_HISTORY_JOBS": "50",
        "WEFT_HISTORY_DAYS": "0.5",
        "WEFT_LOG_FORMAT": "json",
        "WEFT_MODELS": '{"mine": {"checkpoint": "a.safetensors", "defaults": {"steps": 4}}}',
        "WEFT_DEFAULT_MODEL": "mine",
        "WEFT_OUTPUT_FILTER": "SafetyChecker",
    }
    assert set(environ) == {f"WEFT_{name.upper()}" for name in Settings.model_fields}
    assert Settings.from_environment(environ) == Settings(
        base_directory=Path("/somewhere"),
        model_directories=(Path("/a"), Path("/b")),
        input_directory=Path("/in"),
        output_directory=Path("/out"),
        temp_directory=Path("/temp"),
        device="cuda:1",
        workers=("cuda:0", "cuda:1"),
        dtype="bfloat16",
        ancestral_seed_offset=0,
        model_bytes=6 * 2**30,  # pyright: ignore[reportArgumentType]
        reserved_bytes=2**30,  # pyright: ignore[reportArgumentType]
        device_cache_bytes=4 * 2**30,  # pyright: ignore[reportArgumentType]
        host_cache_bytes=1000,  # pyright: ignore[reportArgumentType]
        max_batch_rows=8,
        max_picture_pixels=1000,
        listen="0.0.0.0,::",
        port=80,
        allowed_hosts=("weft.example", "pictures.example"),
        allow_anonymous=True,
        public_url="https://weft.example",
        file_url_seconds=60,
        fetch_urls=True,
        fetch_bytes=2**20,  # pyright: ignore[reportArgumentType]
        outside_ports=(443, 8443),
        webhook_hosts=("hooks.lan", "10.0.0.7"),
        user_directory=Path("/user"),
        extra_model_paths=(Path("/a.yaml"), Path("/b.yaml")),
        custom_nodes=False,
        front_end_root=Path("/web"),
        preview_method="taesd",
        model_hashes=True,
        history_jobs=50,
        history_days=0.5,
        log_format="json",
        models={"mine": ModelSettings(checkpoint="a.safetensors", defaults={"steps": 4})},
        default_model="mine",
        output_filter="SafetyChecker",
    )


def test_every_setting_says_what_it_is_and_has_a_default() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert not field.is_required(), name


def test_what_is_given_wins_over_the_environment() -> None:
    settings = Settings.from_environment({"WEFT_DEVICE": "cuda"}, device="cpu")
    assert settings.device == "cpu"


def test_a_variable_set_to_nothing_is_not_set() -> None:
    assert Settings.from_environment({"WEFT_DEVICE": ""}).device == "auto"


def test_other_variables_are_none_of_its_business() -> None:
    assert Settings.from_environment({"HOME": "/x", "WEFTY": "1"}) == Settings()


def test_all_mistakes_are_told_at_once_by_the_variables_that_hold_them() -> None:
    environ = {"WEFT_DEVCE": "cpu", "WEFT_DTYPE": "int8", "WEFT_MAX_BATCH_ROWS": "0"}
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(environ, ancestral_seed_offset=-1)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("WEFT_DEVCE is no setting; did you mean 'WEFT_DEVICE'")
    assert any(line.startswith("WEFT_DTYPE: ") and "'int8'" in line for line in lines)
    assert any(line.startswith("WEFT_MAX_BATCH_ROWS: ") for line in lines)
    assert any(line.startswith("ancestral_seed_offset: ") for line in lines)


def test_settings_do_not_change() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.device = "cpu"  # pyright: ignore[reportAttributeAccessIssue]


# The file


def test_the_file_is_read_where_the_base_directory_is_and_the_environment_wins(
    folder: Path,
) -> None:
    other = folder / "other"
    other.mkdir()
    (folder / FILE).write_text("port = 1\n")
    (other / FILE).write_text('port = 2\ndtype = "float16"\nhistory_jobs = 7\n')
    assert Settings.from_environment({}).port == 1
    environ = {"WEFT_BASE_DIRECTORY": str(other), "WEFT_DTYPE": "bfloat16"}
    settings = Settings.from_environment(environ, history_jobs=8)
    assert (settings.port, settings.dtype, settings.history_jobs) == (2, "bfloat16", 8)
    assert Settings.from_environment(environ, base_directory=folder).port == 1


def test_paths_in_the_file_begin_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(
        'output_directory = "out"\nmodel_directories = ["a", "/b"]\n'
        'extra_model_paths = ["x.yaml"]\n'
    )
    settings = Settings.from_environment({}, base_directory=tmp_path)
    assert settings.output_directory == tmp_path / "out"
    assert settings.model_directories == (tmp_path / "a", Path("/b"))
    assert settings.extra_model_paths == (tmp_path / "x.yaml",)


def test_mistakes_in_the_file_are_told_with_the_others(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(
        'prot = 1\nport = "x"\nbase_directory = "y"\nmodel_directories = 3\n[section]\na = 1\n'
    )
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({"WEFT_DTYPE": "int8"}, base_directory=tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    file = tmp_path / FILE
    for beginning in (
        f"{file}: prot is no setting; did you mean 'port'",
        f"{file}: section is no setting",
        f"{file}: base_directory is where this file lies",
        f"{file}: port: ",
        f"{file}: model_directories: ",
        "WEFT_DTYPE: ",
    ):
        assert any(line.startswith(beginning) for line in lines), beginning


@pytest.mark.parametrize("content", [b"port =", b"\xff", b"[" * 20])
def test_a_file_that_is_none_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(SettingsError, match="is no TOML"):
        Settings.from_environment({}, base_directory=tmp_path)
