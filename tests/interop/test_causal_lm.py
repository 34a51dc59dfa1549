"""A GPT of ours is a model of transformers: generate, pipeline, Trainer, peft and trl run on it."""

import copy
import json
import subprocess
import sys

import pytest
import torch

import gptwright as gw

from .test_remote import COMBINED, HYBRID, close, drawn, remote

transformers = pytest.importorskip("transformers", reason="it is a model of transformers: pip install 'gptwright[hf]'")
causal_lm = pytest.importorskip("gptwright.interop.causal_lm")
GPTWrightForCausalLM = causal_lm.GPTWrightForCausalLM

pytestmark = [
    # accelerate pins memory by default, and says that without an accelerator nothing is pinned
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning"),
    # peft asks by a name that transformers has given up
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
SMALL = {"attention": {"type": "softmax", "n_heads": 4}, "norm": "rms_norm", "vocab_size": 30, "dropout": 0.0}
WORDS = "abcdefghijklmnopqrstuvwxyz .<>"


@pytest.fixture(scope="module")
def words():
    """Letters as tokens, `<` to fill up."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    found = Tokenizer(models.WordLevel({letter: id for id, letter in enumerate(WORDS)}, unk_token="."))
    found.pre_tokenizer, found.decoder = pre_tokenizers.Split(Regex("."), "isolated"), decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=found, pad_token="<", eos_token=">")


@pytest.fixture(scope="module")
def rows(words):
    lines = ["the cat sat on the mat.", "the dog ran.", "a bird flew over the log."] * 8
    return [{"input_ids": words(line)["input_ids"]} for line in lines]


def wrapped(changes: dict = SMALL) -> "GPTWrightForCausalLM":
    return GPTWrightForCausalLM.from_gpt(fresh(changes))


def fresh(changes: dict = SMALL) -> gw.GPT:
    torch.manual_seed(0)
    return gw.GPT(gw.ModelConfig.from_dict({"d_model": 16, "n_layers": 2, "max_seq_len": 64} | changes))


def arguments(folder, **more):
    return transformers.TrainingArguments(
        str(folder),
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        max_steps=12,
        save_steps=6,
        logging_steps=3,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=1,
        **more,
    )


def trainer(model, words, rows, folder, **more):
    collator = transformers.DataCollatorForLanguageModeling(words, mlm=False)
    return transformers.Trainer(
        model, arguments(folder, **more), train_dataset=rows, eval_dataset=rows, data_collator=collator
    )


@pytest.mark.parametrize("name", ["hybrid", "embedding", "slopes"])
def test_it_is_the_same_model_with_the_same_names(name, tmp_path):
    model = drawn(COMBINED[name])
    ours = GPTWrightForCausalLM.from_gpt(model)
    assert ours.gpt is model
    assert ours.state_dict().keys() == model.state_dict().keys()
    ours.save_pretrained(tmp_path, max_shard_size="20KB")
    again = GPTWrightForCausalLM.from_pretrained(tmp_path)
    for (label, kept), found in zip(model.named_buffers(), again.gpt.buffers(), strict=True):
        assert torch.equal(kept, found), label  # those that no file holds are computed again
    alone = remote.GPTWrightForCausalLM.from_pretrained(tmp_path)
    ids, mask = torch.randint(37, (2, 20)), torch.ones(2, 20, dtype=torch.long)
    mask[0, :5] = 0
    with torch.no_grad():
        expected = model(ids, padding_mask=mask.bool())[mask.bool()]
        assert torch.equal(expected, ours(ids, attention_mask=mask).logits[mask.bool()])
        assert torch.equal(expected, again(ids, attention_mask=mask).logits[mask.bool()])
        close(expected, alone(ids, attention_mask=mask).logits[mask.bool()])
        half = GPTWrightForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert torch.equal(half(ids).logits, model.twin(torch.bfloat16)(ids))


def test_generate_gives_our_own_ids_with_and_without_a_cache():
    model = drawn(HYBRID)
    ours, ids, mask = GPTWrightForCausalLM.from_gpt(model), torch.randint(1, 37, (3, 12)), torch.ones(3, 12)
    mask[0, :7] = mask[1, :2] = 0
    given = {"attention_mask": mask.long(), "max_new_tokens": 16, "pad_token_id": 0, "do_sample": False}
    expected = model.generate(ids, 16, do_sample=False, padding_mask=mask.bool())
    for more in ({}, {"use_cache": False}, {"prefill_chunk_size": 5}):
        assert torch.equal(ours.generate(ids, **given, **more), expected)
    beams = [ours.generate(ids, num_beams=3, use_cache=use_cache, **given) for use_cache in (True, False)]
    assert torch.equal(*beams)


@torch.no_grad()
def test_documents_packed_into_a_row_by_their_positions():
    model = drawn(HYBRID)
    ours, ids = GPTWrightForCausalLM.from_gpt(model), torch.randint(37, (2, 12))
    positions = torch.tensor([[*range(5), *range(3), *range(4)]])
    segments = torch.tensor([[1] * 5 + [2] * 3 + [3] * 4]).expand(2, -1)
    whole = ours(ids, position_ids=positions).logits
    assert torch.equal(whole, model(ids, segments=segments))
    past = ours(ids[:, :7], position_ids=positions[:, :7]).past_key_values
    close(whole[:, 7:], ours(ids[:, 7:], position_ids=positions[:, 7:], past_key_values=past).logits)
    with pytest.raises(gw.GptwrightError, match="position_ids say 9 at column 0 of row 0, where 0 is due: they must"):
        ours(ids, position_ids=positions + 9)


@torch.no_grad()
def test_embeddings_stand_for_ids():
    ours, ids = wrapped({**SMALL, "position": "learned"}), torch.randint(30, (2, 7))
    assert torch.equal(ours(inputs_embeds=ours.get_input_embeddings()(ids)).logits, ours(ids).logits)
    with pytest.raises(gw.GptwrightError, match="a batch is either input_ids or inputs_embeds; give one of them"):
        ours()


@torch.no_grad()
def test_a_copy_has_weights_of_its_own():
    ours, ids = wrapped(), torch.randint(30, (2, 7))
    before, twin = ours(ids).logits, copy.deepcopy(ours)
    twin.layers[0].attention.o_proj.weight.fill_(1)
    assert not torch.equal(twin(ids).logits, before)
    assert torch.equal(twin(ids).logits, twin.gpt(ids))
    assert torch.equal(ours(ids).logits, before)


def test_ids_that_are_not_known_are_named():
    with pytest.raises(gw.GptwrightError, match="30"):
        wrapped()(torch.tensor([[3, 30]]))


@torch.no_grad()
def test_caches_are_cut_or_say_why_not():
    ours, ids = wrapped().eval(), torch.randint(30, (2, 9))
    past = ours(ids).past_key_values
    past.crop(-4)
    close(ours(ids).logits[:, 5:], ours(ids[:, 5:], past_key_values=past).logits)
    past = GPTWrightForCausalLM.from_gpt(drawn(HYBRID))(ids).past_key_values
    with pytest.raises(gw.Unsupported, match="a recurrent state is a sum over its 9 tokens and cannot go back to 5"):
        past.crop(-4)
    foreign = transformers.DynamicCache()
    foreign.update(torch.zeros(1, 4, 3, 4), torch.zeros(1, 4, 3, 4), 0)
    with pytest.raises(
        gw.GptwrightError, match="past_key_values is a DynamicCache of 3 tokens, and this model has GPTW"
    ):
        ours(ids, past_key_values=foreign)


def test_a_folder_cannot_name_code(tmp_path):
    wrapped().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["gptwright"]["attention"]["type"] = "os:system"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(gw.ConfigError, match="attention 'os:system' would import code named by a saved folder"):
        GPTWrightForCausalLM.from_pretrained(tmp_path)


def test_the_vocabulary_can_grow(tmp_path):
    ours = wrapped()
    ours.resize_token_embeddings(40, mean_resizing=False)
    assert ours.gpt.config.vocab_size == 40
    assert ours.gpt(torch.tensor([[39]])).shape == (1, 1, 40)
    ours.save_pretrained(tmp_path)
    assert GPTWrightForCausalLM.from_pretrained(tmp_path).gpt.num_params() == ours.gpt.num_params()


def test_the_pipeline_writes_our_own_text(words):
    ours = wrapped()
    pipe = transformers.pipeline("text-generation", model=ours, tokenizer=words, device="cpu")
    found = pipe(["the", "a cat "], max_new_tokens=6, do_sample=False, batch_size=2)
    for prompt, written in zip(("the", "a cat "), found, strict=True):
        ids = torch.tensor([words(prompt)["input_ids"]])
        assert written[0]["generated_text"] == words.decode(
            ours.gpt.generate(ids, 6, do_sample=False)[0], skip_special_tokens=True
        )


def test_trainer_trains_evaluates_resumes_and_saves(words, rows, tmp_path):
    first = trainer(wrapped(), words, rows, tmp_path / "a")
    before = first.evaluate()["eval_loss"]
    first.train()
    assert first.evaluate()["eval_loss"] < before - 0.5
    second = trainer(wrapped(), words, rows, tmp_path / "b")
    second.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-6"))
    assert second.state.global_step == 12
    for ours, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(ours, other)
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b" / "checkpoint-12")
    assert type(found) is GPTWrightForCausalLM
    alone = remote.GPTWrightForCausalLM.from_pretrained(tmp_path / "b" / "checkpoint-12")
    ids = torch.tensor([rows[0]["input_ids"]])
    close(second.model.eval()(ids).logits.detach(), alone(ids).logits.detach())


@pytest.mark.parametrize("changes", [HYBRID, {"attention": {"type": "linear", "n_heads": 4}}], ids=["hybrid", "linear"])
def test_trainer_in_bf16_recomputing_layers(changes, words, rows, tmp_path):
    model = wrapped(SMALL | changes)
    run = trainer(model, words, rows, tmp_path, bf16=True, activation_checkpointing=True, gradient_accumulation_steps=2)
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.3
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_peft_trains_adapters_and_merges_them(words, rows, tmp_path):
    peft = pytest.importorskip("peft", reason="pip install 'gptwright[finetune]'")
    base = wrapped()
    frozen = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(base, settings)
    assert 0 < adapted.get_nb_trainable_parameters()[0] < 2000
    run = trainer(adapted, words, rows, tmp_path / "run")
    before = run.evaluate()["eval_loss"]
    run.train()
    assert run.evaluate()["eval_loss"] < before - 0.05
    ids = torch.tensor([rows[0]["input_ids"]])
    expected = adapted.eval()(ids).logits.detach()
    adapted.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(wrapped(), tmp_path / "adapter").eval()
    close(expected, again(ids).logits.detach())
    merged = adapted.merge_and_unload()
    close(expected, merged.gpt(ids).detach())
    assert merged.state_dict().keys() == frozen.keys()
    assert torch.equal(merged.token_embedding.weight, frozen["token_embedding.weight"])
    assert not torch.equal(merged.layers[0].attention.q_proj.weight, frozen["layers.0.attention.q_proj.weight"])


def test_an_adapter_that_would_do_nothing_is_refused():
    peft = pytest.importorskip("peft", reason="pip install 'gptwright[finetune]'")
    model = wrapped({**SMALL, "feed_forward": {"type": "moe", "n_experts": 3, "d_ff": 8}})
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["router"]))
    with pytest.raises(
        gw.Unsupported, match=r"layers\.0 has an adapter beside router, of which only the matrix is used"
    ):
        adapted(torch.zeros(1, 4, dtype=torch.long))


def test_trl_fine_tunes_on_answers(words, tmp_path):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([{"prompt": "the cat ", "completion": "sat on the mat."}] * 16)
    settings = trl.SFTConfig(**{**arguments(tmp_path).to_dict(), "max_length": 32, "bf16": False})
    model = wrapped(SMALL | {"logit_softcap": 2.0, "init": {"strategy": "normal", "std": 0.5}})
    run = trl.SFTTrainer(model, args=settings, train_dataset=data, eval_dataset=data, processing_class=words)
    ids = torch.tensor([words("the cat sat on the mat.>")["input_ids"]])
    expected = gw.loss(model.gpt.eval()(ids)[:, 7:-1], ids[:, 8:]).item()
    assert run.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-4)  # bounded logits, answers alone
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.3


def test_without_transformers_the_way_out_is_said():
    code = "import sys; sys.modules['transformers'] = None\nimport gptwright.interop.causal_lm"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (
        "GPTWrightForCausalLM is a model of transformers, which is not installed: pip install 'gptwright[hf]'"
        in (done.stderr.splitlines()[-1])
    )
