"""Attention that sees keys and values before its own, in place of HF's: a
module's `prefix` gives both, each [l, I] or, one per example, [B, l, I].

Li & Liang 2021: softmax(q [P_K; K]^T) [P_V; V]. A prefix has no position, so
T5's relative bias is not added to its scores."""

import torch
import transformers.models.bart.modeling_bart as hf_bart
import transformers.models.bert.modeling_bert as hf_bert
import transformers.models.gpt2.modeling_gpt2 as hf_gpt2
import transformers.models.roberta.modeling_roberta as hf_roberta
import transformers.models.t5.modeling_t5 as hf_t5


def attend(module, q, k, v, mask, scaling=None, position_bias=None, **_):
    def heads(prefix):
        split = prefix.expand(len(q), *prefix.shape[-2:])
        return split.unflatten(2, (q.shape[1], q.shape[3])).transpose(1, 2)

    scores = scaling * q @ k.transpose(2, 3)
    if position_bias is not None:
        scores = scores + position_bias
    if mask is not None:
        scores = scores + mask
    if hasattr(module, "prefix"):
        prefix_k, prefix_v = (heads(p) for p in module.prefix())
        extra = scaling * q @ prefix_k.transpose(2, 3)
        scores = torch.cat([extra, scores], 3)
        v = torch.cat([prefix_v, v], 2)
    weights = scores.softmax(3)
    out = weights @ v
    return out.transpose(1, 2).contiguous(), weights


plain = hf_gpt2.eager_attention_forward  # HF's
for hf in (hf_bart, hf_bert, hf_gpt2, hf_roberta, hf_t5):
    hf.eager_attention_forward = attend


def attentions(model):
    """(module, group, layer)"""
    for key, module in model.named_modules():
        parts = key.split(".")
        if parts[-1] == "self" and parts[-2] == "attention":
            yield module, "encoder", int(parts[3])
        if parts[-1] == "attn":
            yield module, "self", int(parts[2])
        if parts[-1] == "EncDecAttention":
            yield module, "cross", int(parts[2])
        if parts[-1] == "SelfAttention":
            group = "encoder" if parts[0] == "encoder" else "self"
            yield module, group, int(parts[2])
        if parts[-1] == "encoder_attn":
            yield module, "cross", int(parts[3])
        if parts[-1] == "self_attn":
            group = "encoder" if parts[1] == "encoder" else "self"
            yield module, group, int(parts[3])
