"""Prefix adapters written out with plain einsums, for tests: no hooks, no attention library, no TransformerLens.

One function a family, each a whole forward pass over Hugging Face's own weights.
"""

import torch
from torch import Tensor


def softmax(x: Tensor) -> Tensor:
    e = torch.exp(x - x.amax(dim=-1, keepdim=True))
    return e / e.sum(dim=-1, keepdim=True)


def prefix_output(q: Tensor, prefix: Tensor, gate: Tensor, w_k: Tensor, w_v: Tensor, b_k=None, b_v=None) -> Tensor:
    """gate * softmax(q k^T / sqrt(d_head)) v of q (batch, head, pos, d_head), w_k and w_v (d_model, kv_head, d_head)"""
    n_heads, d_head = q.shape[1], q.shape[-1]
    k = torch.einsum("nd,dge->gne", prefix, w_k)
    v = torch.einsum("nd,dge->gne", prefix, w_v)
    if b_k is not None:
        k, v = k + b_k[:, None], v + b_v[:, None]
    k, v = (torch.stack([t[h * len(t) // n_heads] for h in range(n_heads)]) for t in (k, v))
    weights = softmax(torch.einsum("bhpe,hne->bhpn", q, k) / d_head**0.5)
    return gate[None, :, None, None] * torch.einsum("bhpn,hne->bhpe", weights, v)


def own_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention; all (batch, head, pos, d_head)."""
    scores = torch.einsum("bhpe,bhse->bhps", q, k) / q.shape[-1] ** 0.5
    pos = q.shape[2]
    hidden = torch.ones(pos, pos, dtype=torch.bool).triu(1)
    return torch.einsum("bhps,bhse->bhpe", softmax(scores.masked_fill(hidden, float("-inf"))), v)


def rotary(x: Tensor, d_rotary: int, base: float = 10_000.0) -> Tensor:
    """By halves, on the first d_rotary numbers of each head."""
    half = d_rotary // 2
    angle = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * base ** (
        -torch.arange(0, d_rotary, 2, dtype=x.dtype) / d_rotary
    )
    cos, sin = angle.cos(), angle.sin()
    a, b, rest = x[..., :half], x[..., half:d_rotary], x[..., d_rotary:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return weight * centred / torch.sqrt((centred * centred).mean(dim=-1, keepdim=True) + eps) + bias


def heads(x: Tensor, n: int) -> Tensor:
    return x.unflatten(-1, (n, -1)).transpose(1, 2)


def merged(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def llama(model, ids: Tensor, prefix: Tensor, gates: Tensor, start: int) -> Tensor:
    """Logits of a Llama with prefixes (1 or adapted layers, n_tokens, d_model) and gates (adapted layers, heads)."""
    w, c = dict(model.named_parameters()), model.config
    n, g = c.num_attention_heads, c.num_key_value_heads
    x = w["model.embed_tokens.weight"][ids]
    for layer in range(c.num_hidden_layers):
        at = f"model.layers.{layer}."
        y = rms_norm(x, w[at + "input_layernorm.weight"], c.rms_norm_eps)
        w_q, w_k, w_v = (w[at + f"self_attn.{p}_proj.weight"] for p in "qkv")
        q, k, v = heads(y @ w_q.T, n), heads(y @ w_k.T, g), heads(y @ w_v.T, g)
        d_head = q.shape[-1]
        q, k = rotary(q, d_head), rotary(k, d_head)
        k, v = (t.repeat_interleave(n // g, dim=1) for t in (k, v))
        z = own_attention(q, k, v)
        if layer >= start:
            p = prefix[0 if len(prefix) == 1 else layer - start]
            kv = (t.T.unflatten(1, (g, d_head)) for t in (w_k, w_v))
            z = z + prefix_output(q, p, gates[layer - start], *kv)
        x = x + merged(z) @ w[at + "self_attn.o_proj.weight"].T
        y = rms_norm(x, w[at + "post_attention_layernorm.weight"], c.rms_norm_eps)
        gate, up, down = (w[at + f"mlp.{p}_proj.weight"] for p in ("gate", "up", "down"))
        a = y @ gate.T
        x = x + ((a * torch.sigmoid(a)) * (y @ up.T)) @ down.T
    return rms_norm(x, w["model.norm.weight"], c.rms_norm_eps) @ w["lm_head.weight"].T


def gpt2(model, ids: Tensor, prefix: Tensor, gates: Tensor, start: int) -> Tensor:
    w, c = dict(model.named_parameters()), model.config
    n, d = c.n_head, c.n_embd
    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: ids.shape[1]]
    for layer in range(c.n_layer):
        at = f"transformer.h.{layer}."
        y = layer_norm(x, w[at + "ln_1.weight"], w[at + "ln_1.bias"], c.layer_norm_epsilon)
        w_qkv, b_qkv = w[at + "attn.c_attn.weight"], w[at + "attn.c_attn.bias"]
        q, k, v = (heads(t, n) for t in (y @ w_qkv + b_qkv).split(d, dim=-1))
        z = own_attention(q, k, v)
        if layer >= start:
            p = prefix[0 if len(prefix) == 1 else layer - start]
            _, w_k, w_v = (t.unflatten(1, (n, d // n)) for t in w_qkv.split(d, dim=1))
            _, b_k, b_v = (t.unflatten(0, (n, d // n)) for t in b_qkv.split(d))
            z = z + prefix_output(q, p, gates[layer - start], w_k, w_v, b_k, b_v)
        x = x + merged(z) @ w[at + "attn.c_proj.weight"] + w[at + "attn.c_proj.bias"]
        y = layer_norm(x, w[at + "ln_2.weight"], w[at + "ln_2.bias"], c.layer_norm_epsilon)
        a = y @ w[at + "mlp.c_fc.weight"] + w[at + "mlp.c_fc.bias"]
        a = 0.5 * a * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (a + 0.044715 * a**3)))
        x = x + a @ w[at + "mlp.c_proj.weight"] + w[at + "mlp.c_proj.bias"]
    x = layer_norm(x, w["transformer.ln_f.weight"], w["transformer.ln_f.bias"], c.layer_norm_epsilon)
    return x @ w["transformer.wte.weight"].T


def neox(model, ids: Tensor, prefix: Tensor, gates: Tensor, start: int) -> Tensor:
    w, c = dict(model.named_parameters()), model.config
    n, d = c.num_attention_heads, c.hidden_size
    d_head = d // n
    x = w["gpt_neox.embed_in.weight"][ids]
    for layer in range(c.num_hidden_layers):
        at = f"gpt_neox.layers.{layer}."
        norm = [
            (w[at + f"{name}.weight"], w[at + f"{name}.bias"])
            for name in ("input_layernorm", "post_attention_layernorm")
        ]
        y = layer_norm(x, *norm[0], c.layer_norm_eps)
        # rows lie by head, and within a head as query, key, value
        w_qkv = w[at + "attention.query_key_value.weight"].unflatten(0, (n, 3, d_head))
        b_qkv = w[at + "attention.query_key_value.bias"].unflatten(0, (n, 3, d_head))
        q, k, v = (torch.einsum("bpd,hed->bhpe", y, w_qkv[:, i]) + b_qkv[:, i, None] for i in range(3))
        d_rotary = int(d_head * c.rope_parameters["partial_rotary_factor"])
        q, k = rotary(q, d_rotary), rotary(k, d_rotary)
        z = own_attention(q, k, v)
        if layer >= start:
            p = prefix[0 if len(prefix) == 1 else layer - start]
            w_k, w_v = (w_qkv[:, i].permute(2, 0, 1) for i in (1, 2))
            z = z + prefix_output(q, p, gates[layer - start], w_k, w_v, b_qkv[:, 1], b_qkv[:, 2])
        attended = merged(z) @ w[at + "attention.dense.weight"].T + w[at + "attention.dense.bias"]
        y = layer_norm(x, *norm[1], c.layer_norm_eps)  # in parallel with attention
        a = y @ w[at + "mlp.dense_h_to_4h.weight"].T + w[at + "mlp.dense_h_to_4h.bias"]
        a = 0.5 * a * (1 + torch.erf(a / 2**0.5))
        x = x + attended + a @ w[at + "mlp.dense_4h_to_h.weight"].T + w[at + "mlp.dense_4h_to_h.bias"]
    x = layer_norm(x, w["gpt_neox.final_layer_norm.weight"], w["gpt_neox.final_layer_norm.bias"], c.layer_norm_eps)
    return x @ model.get_output_embeddings().weight.T


REFERENCES = {"llama": llama, "llama_gqa": llama, "gpt2": gpt2, "neox": neox}
