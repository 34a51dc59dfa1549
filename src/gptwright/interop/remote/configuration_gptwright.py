"""Settings of a GPT of interchangeable parts, as transformers keeps them: `config.json`.

Everything about the model stands under the key `gptwright`, in the words of that project. The keys beside it repeat
what other tools ask every model for.
"""

from typing import Any

from transformers import PretrainedConfig


class GPTWrightConfig(PretrainedConfig):
    """The settings of `GPTWrightForCausalLM`.

    Args:
        gptwright: settings of the model with every default filled in.
        vocab_size: rows of the embedding, where they are not what ``gptwright`` says (after a resize).
        tie_word_embeddings: whether the head shares the embedding, where that is not what ``gptwright`` says.
        kwargs: whatever transformers keeps for any model (token ids, dtype ...).
    """

    model_type = "gptwright"
    keys_to_ignore_at_inference = ["past_key_values", "last_hidden_state"]  # noqa: RUF012 - transformers reads it so

    def __init__(
        self,
        gptwright: dict[str, Any] | None = None,
        vocab_size: int | None = None,
        tie_word_embeddings: bool | None = None,
        **kwargs: Any,
    ) -> None:
        derived = {
            "hidden_size": "d_model",
            "num_hidden_layers": "n_layers",
            "max_position_embeddings": "max_seq_len",
            "final_logit_softcapping": "logit_softcap",
        }
        ours = {*derived, "num_attention_heads", "use_cache"}
        super().__init__(**{name: value for name, value in kwargs.items() if name not in ours})
        model = dict(gptwright or {})
        parts = [model.get("attention"), *(block.get("attention") for block in (model.get("blocks") or {}).values())]
        self.gptwright = model
        self.vocab_size = vocab_size or model.get("vocab_size")
        tied = model.get("tie_embeddings", True) if tie_word_embeddings is None else tie_word_embeddings
        self.tie_word_embeddings = tied
        self.num_attention_heads = next((part["n_heads"] for part in parts if part and "n_heads" in part), None)
        self.use_cache = kwargs.get("use_cache", True)
        for name, key in derived.items():
            setattr(self, name, model.get(key))
