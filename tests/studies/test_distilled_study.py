"""A teacher in a study: asked once for all methods, a parent of what they learned."""

import json

import pytest
import torch
import yaml

from domainwright.core.artifacts import read_manifest
from domainwright.core.errors import ConfigError
from domainwright.infer.generate import Answer
from domainwright.studies.api import decide, plan, train_method
from domainwright.studies.study import read_study
from domainwright.studies.trace import trace
from domainwright.train import teacher
from tests.studies.world import read_lines, save_base, study_file


def distilled(folder, base, **distil):
    return study_file(
        folder, base, strategies=["zero_shot", "lora", "ia3"], train={"distil": distil}
    )


@pytest.mark.usefixtures("quick")
def test_a_study_with_a_teacher(tmp_path, base, monkeypatch):
    save_base(tmp_path / "study" / "large", seed=4)
    file = distilled(tmp_path / "study", base, teacher="large", weight=0.2, top=16)
    assert read_study(file).train.distil.teacher == str(tmp_path / "study" / "large")
    loaded = []
    plain = teacher.load_base
    monkeypatch.setattr(
        teacher, "load_base", lambda name, **k: loaded.append(name) or plain(name, **k)
    )
    found = plan(file)
    assert found.run_of("lora").fits and not loaded  # nobody is asked for a plan
    decided = decide(file, tmp_path / "run")
    assert {r.name: r.status for r in decided.strategies}["lora"] == "done"
    assert loaded == [str(tmp_path / "study" / "large")]  # once for both methods
    (said,) = (decided.folder / "lessons").iterdir()
    manifest = read_manifest(said, "lessons")
    for name in ("lora", "ia3"):
        adapter = decided.folder / "trials" / name / "adapter"
        if adapter.exists():
            assert read_manifest(adapter)["parents"]["lessons"] == manifest["hash"]
            names = {x["name"]: x for x in trace(adapter)["parents"]}
            assert names["lessons"]["folder"] == str(said)
    settings = json.loads((decided.folder / "verdict.json").read_text())["study"]["train"]
    assert settings["distil"]["weight"] == 0.2
    again = decide(file, tmp_path / "run", resume=True)
    assert again.recommendation == decided.recommendation and len(loaded) == 1


def test_a_run_on_what_a_teacher_wrote(tmp_path, base, monkeypatch):
    """Rows it had no answer for are set aside, with the reason and the line."""
    asked = []

    def scripted(base, prompts, **more):
        asked.append(len(prompts))
        texts = ["" if n == 0 else "the blue shop" for n in range(len(prompts))]
        return [Answer(base.template.tokens(t), t, n != 1, 0, 0.0) for n, t in enumerate(texts)]

    monkeypatch.setattr(teacher, "answer", scripted)
    file = distilled(tmp_path / "study", base, learn="sequences")
    training = train_method(file, "lora", tmp_path / "run")
    assert training.settings["distil"]["learn"] == "sequences"
    aside = read_lines(tmp_path / "run" / "set_aside.jsonl")
    assert [x["reason"] for x in aside] == ["empty_teacher_answer", "unfinished_teacher_answer"]
    assert all(x["line"] and x["file"] for x in aside)
    kept = read_lines(next((tmp_path / "run" / "lessons").iterdir()) / "answers.jsonl")
    assert len(kept) == asked[0]
    train_method(file, "lora", tmp_path / "run", resume=True)
    assert len(asked) == 1


def test_another_teacher_is_another_run(tmp_path, base):
    save_base(tmp_path / "study" / "large", seed=4)
    file = distilled(tmp_path / "study", base, teacher="large", top=8)
    train_method(file, "lora", tmp_path / "run")
    model = tmp_path / "study" / "large"
    for shard in model.glob("*.safetensors"):
        shard.unlink()
    save_base(model, seed=5)
    with pytest.raises(ConfigError, match="other data, settings or base"):
        train_method(file, "lora", tmp_path / "run", resume=True)
    assert torch.is_grad_enabled()


def test_settings_that_are_wrong_are_named(tmp_path, base):
    file = distilled(tmp_path, base, teacher="x", weight=2)
    with pytest.raises(ConfigError, match=r"train\.distil\.weight is 2"):
        read_study(file)
    raw = yaml.safe_load(file.read_text())
    raw["train"]["distil"] = {"techer": "x"}
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match="train distil has no setting 'techer'"):
        read_study(file)
