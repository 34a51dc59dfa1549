"""Write Llama-shaped weights as GGUF: `write_gguf.py WEIGHTS.npz OUT.gguf FACTS`, where FACTS is JSON.

Started by `against_llama_cpp.py`; needs `gguf` and numpy, and nothing of ours.
"""

import json
import sys

import gguf
import numpy as np
from gguf.quants import quantize


def main() -> None:
    weights, out, facts = np.load(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    kind = gguf.GGMLQuantizationType[facts["kind"].upper()]
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(facts["context"])
    writer.add_embedding_length(facts["width"])
    writer.add_block_count(facts["layers"])
    writer.add_feed_forward_length(facts["inner"])
    writer.add_head_count(facts["heads"])
    writer.add_head_count_kv(facts["heads"])
    writer.add_layer_norm_rms_eps(facts["eps"])
    writer.add_rope_freq_base(facts["theta"])
    writer.add_rope_dimension_count(facts["width"] // facts["heads"])
    writer.add_vocab_size(facts["vocab"])
    add_vocabulary(writer, facts["vocab"])
    for name in weights.files:
        array = weights[name]
        if array.ndim == 1:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """Add words that nobody reads: llama.cpp wants some."""
    normal, control, unknown = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.UNKNOWN
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += [f"word{n}" for n in range(len(words), size)]
    kinds = [unknown, control, control, *[gguf.TokenType.BYTE] * 256]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([*kinds, *[normal] * (size - len(kinds))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


if __name__ == "__main__":
    main()
