"""A GPT of ours as a model of transformers, for its `Trainer`, `peft`, `trl`, `pipeline` and whatever else takes one.

It is the same fast model: the same modules under the same names, with our decode states for a cache. What
`save_pretrained` writes, anybody loads with transformers alone.

Shapes: B batch, T new tokens, S tokens so far, D d_model, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gptwright.errors import GptwrightError, Unsupported
from gptwright.interop.remote_export import AUTO_MAP, refuse_own_parts, special_ids, write_code
from gptwright.model.config import ModelConfig
from gptwright.model.gpt import GPT
from gptwright.model.recompute import run_layer
from gptwright.model.states import ModelStates
from gptwright.model.vocabulary import unknown
from gptwright.nn.base import Module, Norm
from gptwright.ops.loss import softcapped
from gptwright.ops.sequence import Sequence

try:
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedModel

    from gptwright.interop.causal_states import GPTWrightStates, describe, states_of
    from gptwright.interop.remote.configuration_gptwright import GPTWrightConfig
    from gptwright.interop.remote.modeling_gptwright import GPTOutput
except ImportError:
    raise GptwrightError(
        "GPTWrightForCausalLM is a model of transformers, which is not installed: pip install 'gptwright[hf]'"
    ) from None

__all__ = ["GPTWrightConfig", "GPTWrightForCausalLM", "GPTWrightStates"]

BARE = ("router", "kv_up_proj")
"""Layers of which only the matrix is used, so that an adapter beside them would never be asked."""


class GPTWrightForCausalLM(PreTrainedModel, GenerationMixin):
    """A GPT of ours as transformers knows models; `from_gpt` makes one, and `gpt` is what is inside."""

    config_class = GPTWrightConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    _input_embed_layer = "token_embedding"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Block"]  # noqa: RUF012 - transformers reads it so
    _tied_weights_keys = {"lm_head.weight": "token_embedding.weight"}  # noqa: RUF012
    _keep_in_fp32_modules_strict = ["expert_bias"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012

    def __init__(self, config: GPTWrightConfig, *, gpt: GPT | None = None) -> None:
        super().__init__(config)
        gpt = gpt or _built(config)
        self.__dict__["_gpt"] = gpt  # no submodule: its parts are, so that all names are ours
        for name, part in gpt.named_children():
            self.add_module(name, part)
        self.gradient_checkpointing = False
        if not gpt.token_embedding.weight.is_meta:  # its weights are what they should be
            for module in self.modules():
                module._is_hf_initialized = True  # pyright: ignore[reportArgumentType]
        self.post_init()

    @classmethod
    def from_gpt(cls, gpt: GPT) -> Self:
        """Return ``gpt`` as a model of transformers; the weights are shared, not copied."""
        config = GPTWrightConfig(
            gptwright=gpt.config.to_dict(), dtype=str(gpt.dtype).removeprefix("torch."), **special_ids(gpt.tokenizer)
        )
        return cls(config, gpt=gpt).train(gpt.training)

    @property
    def gpt(self) -> GPT:
        """The model inside, which shares all weights."""
        gpt: GPT = self.__dict__["_gpt"]
        now = {"vocab_size": self.config.vocab_size, "tie_embeddings": self.config.tie_word_embeddings}
        if any(getattr(gpt.config, name) != value for name, value in now.items()):
            gpt.config = gpt.config.model_copy(update=now)
        return gpt

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        gpt = self.__dict__.get("_gpt")
        if gpt is not None and name in gpt._modules:  # a new embedding or head, or one with an adapter
            setattr(gpt, name, value)

    def train(self, mode: bool = True) -> Self:
        """Turn training on or off."""
        self.__dict__["_gpt"].training = mode
        return super().train(mode)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write a folder that transformers loads by itself, with ``trust_remote_code=True``.

        Raises:
            Unsupported: the model has parts of the user's own.
        """
        refuse_own_parts(self.gpt.config)
        self.config.auto_map = dict(AUTO_MAP)
        self.config.gptwright = self.gpt.config.to_dict()
        push, repo_id = kwargs.pop("push_to_hub", False), kwargs.pop("repo_id", Path(save_directory).name)
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            write_code(Path(save_directory))
        if push:  # not before the code is there
            self.push_to_hub(repo_id, token=kwargs.get("token"))

    def _init_weights(self, module: nn.Module) -> None:
        """Give what a folder does not hold its first value: buffers that are computed, new rows of embeddings."""
        if isinstance(module, nn.Linear | nn.Embedding):
            super()._init_weights(module)
        elif isinstance(module, Module):
            fresh = _fresh(module)
            own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
            for name, tensor in own.items():
                if not getattr(tensor, "_is_hf_initialized", False):
                    value = getattr(fresh, name).to(tensor.device)
                    if name in module._buffers:
                        module._buffers[name] = value
                    else:
                        tensor.data.copy_(value)

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *_: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Give `generate` a cache of our own kind."""
        if model_kwargs.get("past_key_values") is None and generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = GPTWrightStates(self.gpt)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> GPTOutput:
        """Return the logits (B, T, V) of the token after each of ``input_ids`` (B, T).

        Args:
            input_ids: token ids.
            attention_mask: (B, T), or (B, S) with those of the cache in front; 0 at padding, on either side.
            position_ids: (B, T) positions, which begin anew at 0 with each document packed into a row; by default
                real tokens are counted.
            past_key_values: what an earlier call returned.
            inputs_embeds: vectors in place of those of ``input_ids``.
            labels: (B, T) the tokens themselves, -100 where nothing is to be learned.
            use_cache: whether to return a cache; by default yes, but in training.
            logits_to_keep: how many of the last positions to return logits for, or which; 0 is all.
            kwargs: what `loss_function` takes.

        Raises:
            GptwrightError: shapes or ids do not fit, or positions do not count the tokens of documents.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds[..., 0].long()
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise GptwrightError("a batch is either input_ids or inputs_embeds; give one of them")
        gpt = self.gpt
        cache = states_of(past_key_values, gpt, wanted=self._wants_cache(use_cache))
        states = None if cache is None else cache.for_rows(len(given))
        seq = describe(gpt, given, attention_mask, position_ids, states)
        place, keep = given.device.type, logits_to_keep
        narrow = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else None
        with torch.autocast(place, enabled=False):
            x = self._embedded(input_ids) if inputs_embeds is None else inputs_embeds
            x = self._hidden(x, seq, states, narrow)
            kept = x[:, slice(-keep, None) if isinstance(keep, int) else keep]
            logits = softcapped(working_in(narrow, self.lm_head)(kept), gpt.config.logit_softcap)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
            loss = loss + sum(seq.aux_losses)
        return GPTOutput(loss, logits, cache, last_hidden_state=x)  # pyright: ignore[reportArgumentType]

    def _wants_cache(self, use_cache: bool | None) -> bool:
        return self.config.use_cache and not self.training if use_cache is None else use_cache

    def _embedded(self, ids: Any) -> Tensor:
        try:
            return self.get_input_embeddings()(ids)
        except IndexError:
            raise unknown(int(ids.min()), int(ids.max()), self.config.vocab_size) from None

    def _hidden(self, x: Tensor, seq: Sequence, states: ModelStates | None, narrow: torch.dtype | None) -> Tensor:
        """Return the vectors (B, T, D) that the head reads, for embedded tokens (B, T, E)."""
        gpt = self.gpt
        self._refuse_unasked_adapters()
        gpt._check_positions(seq)
        for name in ("embedding_proj", "embedding_norm"):
            x = getattr(self, name)(x) if name in self._modules else x
        x = gpt.dropout(gpt.position(x * gpt.config.embedding_factor, seq))
        x = x if narrow is None else x.to(narrow)
        for index, layer in enumerate(gpt.layers):
            run = working_in(narrow, layer)
            x = run_layer(run, self.gradient_checkpointing, x, seq) if states is None else run(x, seq, states[index])
        if states is not None:
            states.advance(seq)
        return working_in(narrow, self.final_norm)(x)

    def _refuse_unasked_adapters(self) -> None:
        for index, layer in enumerate(self.gpt.layers):
            for name in BARE:
                if any(hasattr(part._modules.get(name), "base_layer") for part in layer.children()):
                    raise Unsupported(
                        f"layers.{index} has an adapter beside {name}, of which only the matrix is used, so that the "
                        "adapter would do nothing; leave it out of target_modules"
                    )


def _built(config: GPTWrightConfig) -> GPT:
    """Return the model that ``config`` describes, in torch's default dtype; code that it names is not run."""
    settings = {**config.gptwright, "vocab_size": config.vocab_size, "tie_embeddings": config.tie_word_embeddings}
    model, dtype = ModelConfig.from_dict(settings, trust_code=False), torch.get_default_dtype()
    with _default_dtype(torch.float32):  # some buffers must not be rounded
        return GPT(model).to(dtype)


def _fresh(part: Module) -> Module:
    """Return a part like this one, as it begins."""
    with torch.device("cpu"), _default_dtype(torch.float32):
        return type(part)(part.config, part.ctx, part.width) if isinstance(part, Norm) else part.config.build(part.ctx)


def working_in(dtype: torch.dtype | None, module: Any) -> Any:
    """Return what calls ``module`` with its weights in ``dtype``, as our own training does, or as they are if None.

    It stands for autocast, which would take the products of our recurrences out of fp32, operation by operation.
    """
    if dtype is None:
        return module

    def run(*inputs: Any) -> Tensor:
        weights = {name: weight.to(dtype) for name, weight in module.named_parameters()}
        return functional_call(module, weights, inputs)

    return run


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


AutoConfig.register("gptwright", GPTWrightConfig, exist_ok=True)
AutoModelForCausalLM.register(GPTWrightConfig, GPTWrightForCausalLM, exist_ok=True)
