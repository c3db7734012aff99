"""What can be known of the tokenizers of a study's checkpoints before its first job."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selfcontrast.schema import Study


def check_tokenizers(study: Study) -> None:
    """Refuse a checkpoint whose chat template or tokenizer does not fit it; hub ids are looked at when they are loaded.

    Raises:
        InputError: it cannot be told what ends an answer, or the model has no embedding for a token that is needed.
    """
    for model in study.models.values():
        if model.path is None or not model.path.startswith((".", "/")):
            continue
        from selfcontrast.checkpoints import embedding_rows, load_tokenizer
        from selfcontrast.rendering import renderer_of_base, settings_of

        code = model.trust_remote_code
        renderer = renderer_of_base(
            load_tokenizer(model.path, trust_remote_code=code),
            model.template,
            rows=embedding_rows(model.path, trust_remote_code=code),
            **settings_of(model.model_dump()),
        )
        renderer.check_rows()
