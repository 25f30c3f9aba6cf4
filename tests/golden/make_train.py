"""Golden data of training: five steps of a tiny BERT classifier with LoRA on
query and value and a trained head, under torch.optim.AdamW, clipping and
transformers' linear schedule. Every step sees all samples, so that the order
of data does not matter.

Tolerance of the test: losses 1e-5, values 2e-4 relative. AdamW divides by the
root of its second moment, which magnifies the rounding of small gradients.
"""

import peft
import torch
import transformers

from common import randomise, write_golden, write_model

SAMPLES, LONGEST, STEPS = 12, 11, 5
LR, WARMUP, DECAY, CLIP = 2e-2, 1, 0.05, 0.3

config = transformers.BertConfig(
    vocab_size=37,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=19,
    type_vocab_size=2,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    num_labels=3,
    attn_implementation="eager",
)
model = transformers.BertForSequenceClassification(config)
randomise(model, 11)
folder = write_model(model, "train_bert")

g = torch.Generator().manual_seed(12)
lengths = torch.randint(2, LONGEST + 1, (SAMPLES,), generator=g)
mask = (torch.arange(LONGEST)[None] < lengths[:, None]).long()
batch = dict(
    input_ids=torch.randint(1, 37, mask.shape, generator=g) * mask,
    attention_mask=mask,
    labels=torch.randint(0, 3, (SAMPLES,), generator=g),
)

model = peft.get_peft_model(
    model,
    peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["query", "value"],
        modules_to_save=["classifier"],
    ),
)
trainable = {}
for name, p in model.named_parameters():
    if not p.requires_grad:
        continue
    if "modules_to_save" in name:
        name = name.split("base_model.model.")[1]
        name = name.replace("modules_to_save.default.", "")
    else:
        name = name.replace(".default", "")
        with torch.no_grad():
            p.copy_(0.2 * torch.randn(p.shape, generator=g))
    trainable[name] = p
tensors = {"initial." + n: p.detach().clone() for n, p in trainable.items()}

model.train()
optimizer = torch.optim.AdamW(
    [
        dict(params=[p for p in trainable.values() if p.dim() > 1],
             weight_decay=DECAY),
        dict(params=[p for p in trainable.values() if p.dim() == 1],
             weight_decay=0.0),
    ],
    lr=LR,
)
schedule = transformers.get_linear_schedule_with_warmup(
    optimizer, WARMUP, STEPS
)
losses, norms = [], []
for _ in range(STEPS):
    loss = model(**batch).loss
    optimizer.zero_grad()
    loss.backward()
    norms.append(torch.nn.utils.clip_grad_norm_(trainable.values(), CLIP))
    optimizer.step()
    schedule.step()
    losses.append(loss.detach())
assert min(norms) > CLIP, norms

write_golden(
    folder,
    dict(
        **batch,
        **tensors,
        **{"final." + n: p for n, p in trainable.items()},
        losses=torch.stack(losses),
        norms=torch.stack(norms),
    ),
)
