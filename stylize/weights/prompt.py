"""The empty prompt as the text encoder of a checkpoint sees it: a constant, computed once."""

from collections.abc import Mapping

import torch
from torch import Tensor

from stylize.config import StylizerError
from stylize.storage import check_state
from stylize.weights.folders import text_heads

START, END = 49406, 49407  # of CLIP's 49408 tokens; the empty prompt is a start and then only ends
VOCABULARY = 49408


def empty_prompt(weights: Mapping[str, Tensor], source: str) -> Tensor:
    """[1, tokens, D] float32 from a CLIP text encoder's weights, named without `text_model.`.

    It is the last layer's states after the final norm, as Stable Diffusion 1 takes them. Raises
    StylizerError, naming `source`, for weights that are not those of such an encoder.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    try:
        vocabulary, width = weights["embeddings.token_embedding.weight"].shape
        tokens = weights["embeddings.position_embedding.weight"].shape[0]
        inner = weights["encoder.layers.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise StylizerError(f"{source}: not a CLIP text encoder ({error})") from None
    if vocabulary != VOCABULARY:
        raise StylizerError(f"{source}: a text encoder of {vocabulary} tokens, not CLIP's 49408")
    layers = {name.split(".")[2] for name in weights if name.startswith("encoder.layers.")}
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=len(layers),
        num_attention_heads=text_heads(width),
        max_position_embeddings=tokens,
    )
    with torch.device("meta"):
        model = CLIPTextModel(config).eval()
    encoder = getattr(model, "text_model", model)  # transformers dropped this level in 5.x
    check_state(weights, encoder.state_dict(), source)
    encoder.load_state_dict({name: w.float() for name, w in weights.items()}, assign=True)
    ids = torch.tensor([[START] + [END] * (tokens - 1)])
    places = torch.arange(tokens).unsqueeze(0)
    with torch.inference_mode():
        prompt = encoder(input_ids=ids, position_ids=places).last_hidden_state
    if not prompt.isfinite().all():
        raise StylizerError(f"{source}: its text encoder gives infinities or NaNs")
    return prompt.clone()
