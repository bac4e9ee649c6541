"""Rows of prompts as tests write them."""


def prompt_row(number, text, *, level="item", stratum="Crime", representative=None, teacher_text=None):
    """A row the teacher reads itself, or one that a near-duplicate stands for."""
    return {
        "prompt_id": f"{level}:{number:04d}",
        "level": level,
        "entity_id": str(number),
        "snapshot_at": None,
        "stratum": stratum,
        "text": text,
        "representative_id": f"{level}:{number if representative is None else representative:04d}",
        "teacher_text": text if teacher_text is None else teacher_text,
        "inclusion_probability": 0.5,
    }
