"""What the committed student writes of one text."""

from msd_models.language_model import device, load_causal, load_tokenizer, resolve_dtype
from msd_models.phrase_scores import Phrases
from msd_models.phrase_writing import write_phrases
from msd_models.student_prompt import prompt_ids
from pipeline.config import Student
from pipeline.storage import Dataset


def written_phrases(student: Dataset, config: Student, text: str, level: str) -> Phrases:
    """(explicit, implicit) phrases, written greedily.

    Args:
        student: committed.
        config: it was distilled under.
        text: of an item or a user.
        level: item or user: a user's text keeps its end where it is too long.
    """
    folder = student.folder / "model"
    model = load_causal(folder, resolve_dtype("auto")).to(device()).eval()
    prompt = prompt_ids(load_tokenizer(folder))
    return write_phrases(model, prompt, [{"text": text, "level": level}], config.max_length)[0]
