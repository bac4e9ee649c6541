"""What a machine is measured to do, and what the demo's time is by that."""

import json
from dataclasses import replace

import pytest

from pipeline import cli, forecast, machine, settings
from pipeline.machine import Speed
from pipeline.stages import with_ancestors

HERE = Speed(float32=105.0, bfloat16=500.0, python=forecast.REFERENCE_PYTHON, cores=2, share=1.0, limits="")
LAPTOP = replace(HERE, float32=32.0, bfloat16=0.7, python=140.0)


@pytest.fixture
def native(monkeypatch):
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)


@pytest.fixture
def avx2(monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")


def test_every_stage_of_the_demo_has_a_cost_and_none_besides():
    assert set(forecast.COSTS) == {stage.name for stage in with_ancestors(["report"])}
    assert forecast.PRESET in settings.presets()


def test_a_slower_machine_takes_longer_in_the_part_that_is_slower(avx2):
    usual = forecast.stage_seconds("teacher_outputs", HERE)
    slow_products = forecast.stage_seconds("teacher_outputs", replace(HERE, float32=HERE.float32 / 2))
    slow_python = forecast.stage_seconds("items", replace(HERE, python=HERE.python / 2))
    assert usual < slow_products < 2 * usual
    assert slow_python == pytest.approx(2 * forecast.stage_seconds("items", HERE))
    assert forecast.stage_seconds("items", replace(HERE, float32=1.0)) == forecast.stage_seconds("items", HERE)
    assert forecast.tokens_per_second("student", LAPTOP) < forecast.tokens_per_second("student", HERE)


def test_the_demo_fits_its_time_here_and_on_a_laptop_without_avx512(avx2):
    install_seconds = 90
    assert forecast.demo_seconds(list(forecast.COSTS), HERE) + install_seconds < 12 * 60
    assert forecast.demo_seconds(list(forecast.COSTS), LAPTOP) + 2 * install_seconds < 20 * 60


def test_limits_of_the_libraries_count_like_a_processor_without_bfloat16(native, monkeypatch):
    has_it = machine.multiplies_bfloat16()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    assert machine.multiplies_bfloat16() == has_it
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    assert not machine.multiplies_bfloat16()
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert not machine.multiplies_bfloat16()


def test_auto_is_float32_without_native_bfloat16(avx2):
    from msd_models.language_model import resolve_dtype

    assert str(resolve_dtype("auto")) == "torch.float32"


def test_doctor_measures_when_asked_and_shows_it_later_under_the_same_limits(native, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MSD_CACHE", str(tmp_path))
    work = ("--work", str(tmp_path / "work"))
    assert doctor(*work) == doctor("--measure", *work)
    said = capsys.readouterr().out
    assert "speed: not measured yet" in said
    measured = said[said.index("matrix products") :]
    assert all(words in measured for words in ("GFLOP/s a core", "teacher, writing: about", "msd demo: about"))
    kept = machine.last_measured()
    assert kept is not None
    assert kept.float32 > 1
    assert 0 < kept.share <= 1.05
    doctor(*work)
    assert measured in capsys.readouterr().out
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert machine.last_measured() is None


def test_doctor_shows_what_a_work_folder_was_made_at(native, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MSD_CACHE", str(tmp_path))
    (tmp_path / "machine_speed.json").write_text(json.dumps(vars(HERE)))
    made = tmp_path / "work" / "student" / "0123"
    made.mkdir(parents=True)
    (made / "manifest.json").write_text(json.dumps({"details": {"tokens_per_second": 1234.5}}))
    doctor("--work", str(tmp_path / "work"))
    assert "1,234 when" in capsys.readouterr().out


def doctor(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", *arguments])
    return ended.value.code


def test_what_is_announced_names_every_stage_and_what_others_take(native, capsys):
    stages = with_ancestors(["report"])
    forecast.announce(stages, HERE)
    said = capsys.readouterr().err
    assert all(f"{stage.name}: {stage.summary}" in said for stage in stages)
    assert "other programs" not in said
    forecast.announce(stages[:1], replace(HERE, share=0.25))
    assert "leave a process 25% of a core now" in capsys.readouterr().err
