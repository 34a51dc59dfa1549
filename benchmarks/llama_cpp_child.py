"""llama.cpp in a Python of its own: reads prompts as JSON lines on stdin, writes what it continued them with.

Started by `against_llama_cpp.py`; needs `llama-cpp-python` and numpy, and nothing of ours.
"""

import json
import sys
import time

import numpy as np


def main() -> None:
    file, threads, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    import llama_cpp

    how = {"n_ctx": context, "n_threads": threads, "n_threads_batch": threads, "n_batch": 512, "verbose": False}
    model = llama_cpp.Llama(file, **how)
    vocab = model.n_vocab()

    def likeliest() -> int:
        pointer = llama_cpp.llama_get_logits_ith(model.ctx, -1)
        return int(np.ctypeslib.as_array(pointer, shape=(vocab,)).argmax())

    print(json.dumps({"version": llama_cpp.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        model.reset()
        began = time.perf_counter()
        model.eval(request["ids"])
        ids, first = [likeliest()], time.perf_counter() - began
        began = time.perf_counter()
        while len(ids) < request["new_tokens"]:
            model.eval(ids[-1:])
            ids.append(likeliest())
        print(json.dumps({"ids": ids, "first": first, "seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main()
