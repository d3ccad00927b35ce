"""A real server on loopback, llama.cpp's, with a model of random weights that is written here: nothing is downloaded.

    python llama_server.py FOLDER

It writes the model into FOLDER, says the server's address on stdout, and runs until its standard input ends.

What such a model says is noise, unless the server holds it to a grammar; then it is noise that fits. Its tokens are the
256 bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

WIDTH, CONTEXT = 32, 16_384


def tokens() -> list[str]:
    """The bytes as characters, in the way of GPT-2: from 256 on for a byte that is no visible character."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]


def write(path: Path) -> None:
    writer = GGUFWriter(path, "llama")
    names = ["<s>", "</s>", *tokens()]
    writer.add_vocab_size(len(names))
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(WIDTH // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types([TokenType.CONTROL] * 2 + [TokenType.NORMAL] * 256)
    writer.add_token_merges(["x x"])  # a list of none is refused
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    random = np.random.default_rng(0)
    embeddings, output = random.standard_normal((2, len(names), WIDTH), dtype=np.float32)
    # The grammar lets it indent as it likes. The first number of every state is large; it speaks against white space.
    embeddings[:, 0] = 20
    output[[2 + byte for byte in b" \t\n"], 0] = -100
    writer.add_tensor("token_embd.weight", embeddings)
    writer.add_tensor("output.weight", output)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        weights = random.standard_normal((WIDTH, WIDTH), dtype=np.float32) / WIDTH
        writer.add_tensor(f"blk.0.{name}.weight", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    import xllamacpp

    path = Path(sys.argv[1]) / "random.gguf"
    write(path)
    given = xllamacpp.CommonParams()
    given.model.path = str(path)
    given.hostnames, given.port = ["127.0.0.1"], 0
    given.n_ctx, given.n_parallel = CONTEXT, 2
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(given)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
