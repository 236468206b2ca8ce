from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tritone_export import RepositoryError, check_repository, lint_repository, write_configs
from tritone_export.lint.config_file import read_source
from tritone_training.kinds.genre_cnn.declaration import DECLARATION

PYTHON_MODEL = "class TritonPythonModel:\n    def execute(self, requests): ...\n"


def line_of(path: Path, text: str, nth: int = 1) -> int:
    lines = [i for i, line in enumerate(path.read_text().splitlines(), start=1) if text in line]
    return lines[nth - 1]


def rewrite(path: Path, old: str, new: str, *, count: int = 1) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def only(repository: Path) -> str:
    """Return the only finding."""
    findings = lint_repository(repository)
    assert len(findings) == 1, "\n".join(map(str, findings))
    return str(findings[0])


def test_exported_versions_pass_lint(repository: Path) -> None:
    assert lint_repository(repository) == []


def test_a_fresh_clone_is_clean_with_a_note(tmp_path: Path) -> None:
    write_configs(DECLARATION, tmp_path)
    report = check_repository(tmp_path)
    assert report.findings == ()
    assert report.notes == (f"{tmp_path}/genre_cnn: no version yet; `tritone export genre_cnn` adds one",)


def test_an_empty_repository_is_a_note_and_a_missing_one_an_error(tmp_path: Path) -> None:
    assert "no models yet" in check_repository(tmp_path).notes[0]
    with pytest.raises(RepositoryError):
        lint_repository(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(RepositoryError):
        lint_repository(tmp_path / "file")


# Each spoils config.pbtxt by one replacement: what is replaced, by what, the line's text, the message.
CONFIG_FAULTS = {
    "unknown field": (
        "max_batch_size: 64",
        "max_batchsize: 64",
        "max_batchsize",
        "unknown field 'max_batchsize'",
    ),
    "nested unknown field": (
        "    num_versions: 1",
        "    num_version: 1",
        "num_version: 1",
        r"unknown field 'num_version' \(did you mean 'num_versions'\?\)",
    ),
    "syntax": ("max_batch_size: 64", "max_batch_size: many", "max_batch_size", "cannot be parsed: .*many"),
    "unknown value": (
        "kind: KIND_CPU",
        "kind: KIND_CUP",
        "KIND_CUP",
        r"no value named KIND_CUP. \(did you mean 'KIND_CPU'\?\)",
    ),
    "name": (
        'name: "genre_cnn"',
        'name: "genre"',
        'name: "genre"',
        "name is 'genre', but the folder is 'genre_cnn'",
    ),
    "a platform of another backend": (
        'backend: "onnxruntime"',
        'backend: "onnxruntime"\nplatform: "tensorflow_savedmodel"',
        "platform",
        "platform 'tensorflow_savedmodel' does not belong to backend 'onnxruntime'",
    ),
    "KIND_GPU": ("kind: KIND_CPU", "kind: KIND_GPU", "KIND_GPU", "KIND_GPU in the default config"),
    "gpus": ("kind: KIND_CPU", "kind: KIND_CPU\n  gpus: [0]", "gpus", "a KIND_CPU group lists gpus"),
    "preferred": (
        "dynamic_batching {",
        "dynamic_batching {\n  preferred_batch_size: [8, 128]",
        "preferred_batch_size",
        "size 128 is not between 1 and max_batch",
    ),
    "warm-up": (
        "  batch_size: 1\n",
        "  batch_size: 65\n",
        "  batch_size: 65",
        "warm-up batch of 65 is above",
    ),
    "decoupled cache": (
        'backend: "onnxruntime"',
        'backend: "onnxruntime"\nmodel_transaction_policy { decoupled: true }\nresponse_cache { enable: true }',
        "response_cache",
        "Triton refuses it for a decoupled model",
    ),
    "invalid limits": (r"{\"axes\":{}", r"{\"axes\":{", "parameters {", "parameter limits is invalid"),
    "limits of another input": (
        r"{\"audio\":",
        r"{\"sound\":",
        "parameters {",
        "names input 'sound', which the config",
    ),
    "limits of other axes": (
        r"[\"sample\"]",
        "[]",
        "parameters {",
        r"names axes \[\] of 'audio', whose dims are \[66150\]",
    ),
    "an unknown limit": (r"\"finite\"", r"\"final\"", "parameters {", "has the unknown entry 'final' for 'audio'"),
    "an empty range": (r"\"min\":-64.0", r"\"min\":65", "parameters {", "has an empty range for 'audio'"),
    "cached answers about users": (
        'backend: "onnxruntime"',
        'backend: "cf_ensemble"\ninput { name: "user_id" data_type: TYPE_STRING dims: [ 1 ] optional: true }\n'
        "response_cache { enable: true }",
        "response_cache",
        "responses about user_id depend on the caller's credentials",
    ),
    "label file": (
        '"emotions.txt"',
        '"moods.txt"',
        '"moods.txt"',
        "label file 'moods.txt' of output 'emotions'",
    ),
    "no backend": ('backend: "onnxruntime"', "", "generated", "has no backend"),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_faults_of_a_config_are_reported_with_their_line(repository: Path, fault: str) -> None:
    old, new, at, message = CONFIG_FAULTS[fault]
    config = repository / "genre_cnn" / "config.pbtxt"
    shutil.rmtree(config.parent / "configs")
    rewrite(config, old, new)
    findings = [str(finding) for finding in lint_repository(repository)]
    expected = re.compile(rf"{re.escape(str(config))}:{line_of(config, at)}: error: .*{message}.*")
    assert [finding for finding in findings if expected.search(finding)], "\n".join(findings)


# What differs from the ONNX file, of which line.
TENSOR_FAULTS = {
    "name": (
        'name: "emotions"',
        'name: "emotion"',
        'name: "emotion"',
        "output 'emotion' is not in 1/model.onnx",
    ),
    "type": (
        "TYPE_FP32",
        "TYPE_FP16",
        "TYPE_FP16",
        "input 'audio' is TYPE_FP16 here and TYPE_FP32 in the graph",
    ),
    "input dims": (
        "[66150]",
        "[66000]",
        "[66000]",
        r"has dims \[66000\] here; the graph has \[66150\] after the batch",
    ),
    "output dims": (
        "dims: [9]",
        "dims: [-1]",
        "[-1]",
        r"output 'emotions' has dims \[-1\] here; the graph has \[9\]",
    ),
    "fixed labels": (
        "dims: [-1]",
        "dims: [4]",
        "[4]",
        r"'probabilities' has dims \[4\] here; the graph has \[-1\]",
    ),
    "rank": ("dims: [256]", "dims: [256, 1]", "[256, 1]", r"output 'embedding' has dims \[256, 1\] here"),
    "batching": (
        "max_batch_size: 64",
        "max_batch_size: 0",
        "[66150]",
        r"dims \[66150\] here; the graph has \[-1, 66150\]",
    ),
}


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_tensors_are_compared_with_the_onnx_file(repository: Path, fault: str) -> None:
    old, new, at, message = TENSOR_FAULTS[fault]
    config = repository / "genre_cnn" / "config.pbtxt"
    shutil.rmtree(config.parent / "configs")
    rewrite(config, old, new)
    findings = [str(finding) for finding in lint_repository(repository)]
    nth = 2 if fault == "output dims" else 1
    expected = re.compile(rf"{re.escape(str(config))}:{line_of(config, at, nth)}: error: .*{message}")
    assert [finding for finding in findings if expected.search(finding)], "\n".join(findings)


def test_a_graph_without_a_batch_axis(repository: Path) -> None:
    path = repository / "genre_cnn" / "1" / "model.onnx"
    (path.parent / "model_card.json").unlink()
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)
    findings = [str(finding) for finding in lint_repository(repository)]
    assert len(findings) == 2, "in both configs"
    assert "input 'audio' has no variable batch axis in the graph, whose shape is [1, 66150]" in findings[0]


def test_profiles_have_the_same_tensors(repository: Path) -> None:
    gpu = repository / "genre_cnn" / "configs" / "gpu.pbtxt"
    rewrite(gpu, '"emotions.txt"', '"moods.txt"')
    finding = only(repository)
    assert finding.startswith(f"{gpu}:{line_of(gpu, 'output', 2)}: error: output 'emotions' differs from config.pbtxt")
    assert "label_filename moods.txt instead of emotions.txt" in finding
    rewrite(gpu, '"moods.txt"', '"emotions.txt"')
    rewrite(gpu, "max_batch_size: 64", "max_batch_size: 32")
    assert "max_batch_size is 32, but 64 in config.pbtxt" in only(repository)


def spoil_labels(model: Path) -> None:
    (model / "labels.txt").write_text("classical\nelectronic\n")
    (model / "1" / "labels.txt").write_text("classical\nelectronic\n")


def swap_labels(model: Path) -> None:
    (model / "labels.txt").write_text("rock\nclassical\nelectronic\npop\n")


def cut_off(model: Path) -> None:
    path = model / "1" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1000])
    (path.parent / "model_card.json").unlink()


def flip_a_weight(model: Path) -> None:
    path = model / "1" / "model.onnx.data"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_the_graph(model: Path) -> None:
    path = model / "1" / "model.onnx"
    graph = onnx.load(path, load_external_data=False)
    graph.doc_string = "changed"
    path.write_bytes(graph.SerializeToString())


def not_onnx(model: Path) -> None:
    (model / "1" / "model.onnx").write_bytes(b"\xff" * 100)
    (model / "1" / "model_card.json").unlink()


def empty_onnx(model: Path) -> None:
    (model / "1" / "model.onnx").write_bytes(b"")
    (model / "1" / "model_card.json").unlink()


def link_out(model: Path) -> None:
    outside = model.parent.parent / "outside.txt"
    outside.write_text("x")
    (model / "1" / "notes.txt").symlink_to(outside)


def link_nowhere(model: Path) -> None:
    (model / "1" / "notes.txt").symlink_to(model / "gone")


FOLDER_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no model": (lambda m: (m / "2").mkdir(), r"genre_cnn/2:1: error: version 2 has no model.onnx"),
    "zero": (lambda m: shutil.copytree(m / "1", m / "01"), r"/01:1: error: .*starts with a zero"),
    "word": (
        lambda m: shutil.copytree(m / "1", m / "new"),
        r"/new:1: error: version folder 'new' is not a number",
    ),
    "v2": (lambda m: (m / "v2").mkdir(), r"/v2:1: error: version folder 'v2' is not a number"),
    "leftover": (
        lambda m: (m / ".staging-1").mkdir(),
        r"/.staging-1:1: warning: is a leftover of an interrupted export",
    ),
    "labels missing": (
        lambda m: (m / "labels.txt").unlink(),
        r"config.pbtxt:\d+: error: label file 'labels.txt'",
    ),
    "label count": (
        spoil_labels,
        r"labels.txt:1: error: has 2 class names, but output 'probabilities' has 4 columns",
    ),
    "label order": (swap_labels, r"labels.txt:1: error: differs from 1/labels.txt, the labels of the newest version"),
    "truncated": (cut_off, r"1/model.onnx:1: error: is not an ONNX file, or is truncated"),
    "weight": (flip_a_weight, r"1/model.onnx.data:1: error: does not match its model card"),
    "graph": (change_the_graph, r"1/model.onnx:1: error: does not match its model card"),
    "not onnx": (not_onnx, r"1/model.onnx:1: error: is not an ONNX file, or is truncated"),
    "empty": (empty_onnx, r"1/model.onnx:1: error: is not a valid ONNX model"),
    "no config": (lambda m: (m / "config.pbtxt").unlink(), r"config.pbtxt:1: error: is missing"),
    "link out": (link_out, r"notes.txt:1: warning: links out of the repository"),
    "link nowhere": (link_nowhere, r"notes.txt:1: error: links to .*, which does not exist"),
}


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_faults_of_a_folder(repository: Path, fault: str) -> None:
    spoil, message = FOLDER_FAULTS[fault]
    spoil(repository / "genre_cnn")
    findings = [str(finding) for finding in lint_repository(repository)]
    assert [finding for finding in findings if re.search(message, finding)], "\n".join(findings)
    assert all(re.search(r": (error|warning): .* \(.+\)$", finding) for finding in findings)


def test_invalid_model_names(repository: Path) -> None:
    (repository / "genre_cnn").rename(repository / "genre cnn")
    assert any("invalid model name" in str(finding) for finding in lint_repository(repository))


def test_a_version_policy_that_selects_no_version(repository: Path) -> None:
    for file in ("config.pbtxt", "configs/gpu.pbtxt"):
        rewrite(repository / "genre_cnn" / file, "latest {\n    num_versions: 1", "specific {\n    versions: 7")
    assert "version_policy selects none of the existing versions [1]" in only(repository)


def test_versions_that_are_not_served_may_differ(repository: Path) -> None:
    model = repository / "genre_cnn"
    shutil.copytree(model / "1", model / "2")
    not_onnx(model)
    assert lint_repository(repository) == []


def test_dynamic_batching_without_a_batch_axis(tmp_path: Path) -> None:
    model = tmp_path / "scorer"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text(PYTHON_MODEL)
    config = model / "config.pbtxt"
    config.write_text('backend: "python"\ndynamic_batching { }\n')
    assert only(tmp_path).startswith(f"{config}:2: error: dynamic_batching needs a batch axis")


def test_a_queue_limit_with_a_single_instance(repository: Path) -> None:
    config = repository / "genre_cnn" / "config.pbtxt"
    rewrite(config, "  count: 2\n", "  count: 1\n")
    expected = f"{config}:{line_of(config, 'instance_group')}: warning: has a queue policy with a timeout or a size"
    assert only(repository).startswith(expected)


def test_models_of_other_backends_are_accepted(tmp_path: Path) -> None:
    for name, backend in (("scorer", "python"), ("all", "ensemble"), ("dance", "dali")):
        model = tmp_path / name
        (model / "1").mkdir(parents=True)
        key = "platform" if backend == "ensemble" else "backend"
        (model / "config.pbtxt").write_text(f'{key}: "{backend}"\n')
    (tmp_path / "README.md").write_text("not a model")
    assert only(tmp_path).endswith(f"export it again, or remove it: rm -r {tmp_path}/scorer/1)")
    (tmp_path / "scorer" / "1" / "model.py").write_text(PYTHON_MODEL)
    (tmp_path / "scorer" / "lookup").mkdir()
    assert lint_repository(tmp_path) == []


def test_all_unknown_fields_are_reported(repository: Path) -> None:
    config = repository / "genre_cnn" / "config.pbtxt"
    rewrite(config, "    num_versions: 1", "    num_version: 1")
    rewrite(config, "count: 2", "count: 2 cuont: 1 # a comment { with: brackets }")
    messages = [finding.message for finding in lint_repository(repository)]
    assert messages == ["unknown field 'num_version'", "unknown field 'cuont'"]


def test_lines_of_nested_and_repeated_fields() -> None:
    source = read_source(
        "# a { comment\n"
        'name: "a } b" # more\n'
        "input [\n"
        "  { name: 'x' dims: [ 1,\n"
        "    2 ] },\n"
        "  {\n"
        "    dims: 3\n"
        '    name: "two"\n'
        '      "lines"\n'
        "  }\n"
        "]\n"
        "optimization < graph: { level: 1 } >\n"
    )
    assert source.line("name") == 2
    assert source.line(("input", 0)) == 4
    assert source.line(("input", 0), ("dims", 1)) == 5
    assert source.line(("input", 1), "dims") == 7
    assert source.line(("input", 1), "name") == 8
    assert source.line(("input", 1), "label_filename") == 6, "a missing field has the line of its message"
    assert source.line("optimization", "graph", "level") == 12
    assert source.line("backend") == 1


@pytest.mark.parametrize("text", ["", "{", "}", "a: [", 'a: "', "a {", "a <", "[[[", "a: : :", "\x00", "a: [}"])
def test_malformed_text_is_reported(repository: Path, text: str) -> None:
    read_source(text)
    (repository / "genre_cnn" / "config.pbtxt").write_text(text)
    shutil.rmtree(repository / "genre_cnn" / "configs")
    assert lint_repository(repository)


def test_a_config_that_is_not_text(repository: Path) -> None:
    (repository / "genre_cnn" / "configs" / "gpu.pbtxt").write_bytes(b"\xff\xfe")
    assert "gpu.pbtxt:1: error: is not UTF-8 text" in only(repository)


def test_profiles_have_the_same_limits(repository: Path) -> None:
    config = repository / "genre_cnn" / "configs" / "gpu.pbtxt"
    rewrite(config, r"\"max\":64.0", r"\"max\":128.0")
    assert "parameter limits differs from config.pbtxt" in only(repository)


def test_weights_in_another_file_are_found(repository: Path) -> None:
    version = repository / "genre_cnn" / "1"
    (version / "model_card.json").unlink()
    model = onnx.load(str(version / "model.onnx"))
    onnx.save(model, str(version / "model.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=64)
    assert not [finding for finding in lint_repository(repository) if finding.severity == "error"]
    content = (version / "weights.bin").read_bytes()
    (version / "weights.bin").write_bytes(content[:100])
    assert "is truncated: expected at least" in "\n".join(map(str, lint_repository(repository)))
    (version / "weights.bin").unlink()
    assert "has weights in weights.bin, which is missing" in "\n".join(map(str, lint_repository(repository)))


def test_an_unsupported_opset_is_reported_with_the_version_of_onnxruntime(repository: Path) -> None:
    path = repository / "genre_cnn" / "1" / "model.onnx"
    (path.parent / "model_card.json").unlink()
    model = onnx.load(str(path))
    next(each for each in model.opset_import if not each.domain).version = 99
    path.write_bytes(model.SerializeToString())
    found = [str(finding) for finding in lint_repository(repository)]
    assert any(re.search(r"onnxruntime [\d.]+ cannot open this file: .*99", each) for each in found), found


@pytest.mark.parametrize("name", ["lost+found", ".snapshot", ".Trash-1000", "..data", ".git", "@eaDir", "$RECYCLE.BIN"])
def test_folders_of_file_systems_are_ignored(repository: Path, name: str) -> None:
    for folder in (repository, repository / "genre_cnn"):
        (folder / name).mkdir()
    report = check_repository(repository)
    assert (report.findings, report.notes, report.n_models) == ((), (), 1)


@pytest.mark.parametrize(
    ("side", "message"),
    [("input", r"lacks inputs of 1/model\.onnx: 'audio'"), ("output", r"declares no output; 1/model\.onnx has 'emb")],
)
def test_a_config_without_inputs_or_outputs(repository: Path, side: str, message: str) -> None:
    for config in sorted((repository / "genre_cnn").rglob("*.pbtxt")):
        message_of = text_format.Parse(config.read_text(), model_config_pb2.ModelConfig())
        message_of.ClearField(side)  # type: ignore[arg-type]
        if side == "input":
            message_of.ClearField("model_warmup")
            del message_of.parameters["limits"]
        config.write_text(text_format.MessageToString(message_of))
    assert re.search(message, "\n".join(map(str, lint_repository(repository))))
