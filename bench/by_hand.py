"""The right layer of models of `bench.models`, written by hand, and Grad-CAM at it the plain way.

Each layer was read off the code of torchvision, timm or transformers: the last map that the head pools, after
what normalises or activates it; for a head that reads a class token the normalised tokens that go into the last
attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ByHand:
    """A layer and how its output holds the map.

    Attributes:
        layer: name of the module.
        layout: `nchw`, `nhwc`, or `tokens`.
        prefix: tokens before those of the map.
        then: `relu` if that function follows.
    """

    layer: str
    layout: str = "nchw"
    prefix: int = 0
    then: str = ""

    def maps(self, output: Tensor, size: Sequence[int]) -> Tensor:
        """(B,C,h,w) of an output for images of this size (H,W)."""
        if self.layout == "nhwc":
            return output.movedim(3, 1)
        if self.layout == "tokens":
            tokens = output[:, self.prefix :]
            stride = (size[0] * size[1] / tokens.shape[1]) ** 0.5
            h, w = round(size[0] / stride), round(size[1] / stride)
            return torch.stack([tokens[:, row * w : (row + 1) * w] for row in range(h)], 1).movedim(3, 1)
        return output


def grad_cam(model: nn.Module, by_hand: ByHand, images: Tensor, target: int) -> Tensor:
    """Grad-CAM the plain way, (B,h,w): the whole graph, `retain_grad`, and a reshape of its own."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _arguments: object, output: Tensor | tuple[Tensor, ...]) -> object:
        first = output if isinstance(output, Tensor) else output[0]
        if by_hand.then:
            first = first.relu()
        first.retain_grad()
        kept.append(first)
        # A copy, as what follows may change it in place; above zero, where the model's own ReLU comes once more.
        first = first + 1e-30 if by_hand.then else first
        return first.clone() if isinstance(output, Tensor) else (first.clone(), *output[1:])

    handle = model.get_submodule(by_hand.layer).register_forward_hook(keep)
    try:
        with torch.enable_grad():
            output = model(images.clone().requires_grad_())
            logits = output if isinstance(output, Tensor) else output.logits
            logits[:, target].sum().backward()
    finally:
        handle.remove()
        model.zero_grad()
    gradient = kept[-1].grad
    assert gradient is not None
    size = images.shape[2:]
    weights = by_hand.maps(gradient, size).mean((2, 3), keepdim=True)
    return (weights * by_hand.maps(kept[-1].detach(), size)).sum(1).relu()


def _tokens(layer: str, prefix: int = 0) -> ByHand:
    return ByHand(layer, "tokens", prefix)


def _last_rows(layer: str) -> ByHand:
    return ByHand(layer, "nhwc")


#: Name in `bench.zoo` -> its right layer.
BY_HAND: dict[str, ByHand] = {
    "torchvision:alexnet": ByHand("features"),
    "torchvision:convnext_tiny": ByHand("features"),
    "torchvision:densenet121": ByHand("features", then="relu"),
    "torchvision:efficientnet_b0": ByHand("features"),
    "torchvision:efficientnet_b1": ByHand("features"),
    "torchvision:efficientnet_b2": ByHand("features"),
    "torchvision:efficientnet_b3": ByHand("features"),
    "torchvision:efficientnet_b4": ByHand("features"),
    "torchvision:efficientnet_b5": ByHand("features"),
    "torchvision:efficientnet_b6": ByHand("features"),
    "torchvision:efficientnet_b7": ByHand("features"),
    "torchvision:efficientnet_v2_l": ByHand("features"),
    "torchvision:efficientnet_v2_m": ByHand("features"),
    "torchvision:efficientnet_v2_s": ByHand("features"),
    "torchvision:googlenet": ByHand("inception5b"),
    "torchvision:inception_v3": ByHand("Mixed_7c"),
    "torchvision:maxvit_t": ByHand("blocks.3"),
    "torchvision:mnasnet0_5": ByHand("layers"),
    "torchvision:mobilenet_v2": ByHand("features"),
    "torchvision:mobilenet_v3_small": ByHand("features"),
    "torchvision:regnet_y_400mf": ByHand("trunk_output"),
    "torchvision:resnet18": ByHand("layer4"),
    "torchvision:resnext50_32x4d": ByHand("layer4"),
    "torchvision:shufflenet_v2_x0_5": ByHand("conv5"),
    "torchvision:squeezenet1_1": ByHand("features"),
    "torchvision:swin_t": _last_rows("norm"),
    "torchvision:swin_v2_t": _last_rows("norm"),
    "torchvision:vgg11": ByHand("features"),
    "torchvision:vgg11_bn": ByHand("features"),
    "torchvision:vit_b_32": _tokens("encoder.layers.encoder_layer_11.ln_1", 1),
    "torchvision:vit_h_14": _tokens("encoder.layers.encoder_layer_31.ln_1", 1),
    "torchvision:vit_l_16": _tokens("encoder.layers.encoder_layer_23.ln_1", 1),
    "torchvision:vit_l_32": _tokens("encoder.layers.encoder_layer_23.ln_1", 1),
    "torchvision:wide_resnet50_2": ByHand("layer4"),
    "timm:beit_base_patch16_224": _tokens("blocks.11", 1),
    "timm:cait_xxs24_224": _tokens("blocks_token_only.1.norm1", 1),
    "timm:bat_resnext26ts": ByHand("stages"),
    "timm:botnet26t_256": ByHand("stages"),
    "timm:caformer_s18": ByHand("stages"),
    "timm:coatnet_pico_rw_224": ByHand("norm"),
    "timm:convit_tiny": _tokens("blocks.11.norm1", 1),
    "timm:convmixer_1024_20_ks9_p14": ByHand("blocks"),
    "timm:convmixer_768_32": ByHand("blocks"),
    "timm:convnextv2_atto": ByHand("stages"),
    "timm:cs3darknet_focus_s": ByHand("stages"),
    "timm:cspnext_m": ByHand("stages"),
    "timm:cspnext_s": ByHand("stages"),
    "timm:cspnext_tiny": ByHand("stages"),
    "timm:davit_tiny": ByHand("stages"),
    "timm:deit_tiny_distilled_patch16_224": _tokens("blocks.11.norm1", 2),
    "timm:deit_tiny_patch16_224": _tokens("blocks.11.norm1", 1),
    "timm:densenet121": ByHand("features"),
    "timm:dla46_c": ByHand("level5"),
    "timm:dpn48b": ByHand("features"),
    "timm:edgenext_xx_small": ByHand("stages"),
    "timm:efficientformer_l1": _tokens("norm"),
    "timm:eca_botnext26ts_256": ByHand("stages"),
    "timm:efficientformerv2_s0": ByHand("norm"),
    "timm:efficientformerv2_s2": ByHand("norm"),
    "timm:efficientvim_m1": ByHand("norm.3"),
    "timm:efficientvim_m1_dist": ByHand("norm.3"),
    "timm:efficientvim_m2": ByHand("norm.3"),
    "timm:efficientvit_b0": ByHand("head.in_conv"),
    "timm:efficientvit_b1": ByHand("head.in_conv"),
    "timm:efficientvit_b2": ByHand("head.in_conv"),
    "timm:efficientvit_m0": ByHand("stages"),
    "timm:efficientvit_m1": ByHand("stages"),
    "timm:efficientvit_m2": ByHand("stages"),
    "timm:ese_vovnet19b_slim_dw": ByHand("stages"),
    "timm:eva02_tiny_patch14_224": _tokens("blocks.11", 1),
    "timm:fbnetv3_b": ByHand("blocks"),
    "timm:fasternet_t0": ByHand("stages"),
    "timm:fastvit_t8": ByHand("final_conv"),
    "timm:focalnet_tiny_srf": ByHand("norm"),
    "timm:gcvit_xxtiny": ByHand("stages"),
    "timm:gemma4_vit_167m": _tokens("encoder"),
    "timm:gernet_s": ByHand("final_conv"),
    "timm:ghostnet_050": ByHand("blocks"),
    "timm:gmlp_ti16_224": _tokens("norm"),
    "timm:halonet_h1": ByHand("stages"),
    "timm:hgnetv2_b0": ByHand("stages"),
    "timm:hiera_tiny_224": _tokens("blocks.11"),
    "timm:hrnet_w18_small": ByHand("final_layer"),
    "timm:inception_next_atto": ByHand("stages"),
    "timm:inception_resnet_v2": ByHand("conv2d_7b"),
    "timm:inception_v3": ByHand("Mixed_7c"),
    "timm:inception_v4": ByHand("features"),
    "timm:legacy_seresnet18": ByHand("layer4"),
    "timm:legacy_xception": ByHand("act4"),
    "timm:levit_128": _tokens("stages"),
    "timm:levit_128s": _tokens("stages"),
    "timm:levit_conv_128s": ByHand("stages"),
    "timm:mambaout_femto": _last_rows("stages"),
    "timm:gmixer_12_224": _tokens("norm"),
    "timm:mixer_s16_224": _tokens("norm"),
    "timm:mobilenetv3_small_050": ByHand("blocks"),
    "timm:mobileone_s0": ByHand("final_conv"),
    "timm:mobilevit_xxs": ByHand("final_conv"),
    "timm:mobilevitv2_050": ByHand("stages"),
    "timm:mvitv2_tiny": _tokens("norm"),
    "timm:nest_tiny": _last_rows("norm"),
    "timm:nextvit_small": ByHand("norm"),
    "timm:nf_regnet_b0": ByHand("final_act"),
    "timm:pit_ti_224": _tokens("transformers.2.blocks.3.norm1", 1),
    "timm:pnasnet5large": ByHand("act"),
    "timm:poolformer_s12": ByHand("stages"),
    "timm:poolformerv2_s12": ByHand("stages"),
    "timm:poolformerv2_s24": ByHand("stages"),
    "timm:sebotnet33ts_256": ByHand("final_conv"),
    "timm:pvt_v2_b0": ByHand("stages"),
    "timm:regnetx_002": ByHand("s4"),
    "timm:repghostnet_050": ByHand("blocks"),
    "timm:repvgg_a0": ByHand("stages"),
    "timm:repvit_m0_9": ByHand("stages"),
    "timm:res2net50_14w_8s": ByHand("layer4"),
    "timm:resmlp_12_224": _tokens("norm"),
    "timm:resnest14d": ByHand("layer4"),
    "timm:resnet10t": ByHand("layer4"),
    "timm:resnetv2_18": ByHand("norm"),
    "timm:rexnet_100": ByHand("features"),
    "timm:samvit_base_patch16_224": ByHand("neck"),
    "timm:selecsls42": ByHand("head"),
    "timm:sequencer2d_s": _last_rows("norm"),
    "timm:shvit_s1": ByHand("stages"),
    "timm:skresnet18": ByHand("layer4"),
    "timm:starnet_s050": ByHand("norm"),
    "timm:swiftformer_xs": ByHand("norm"),
    "timm:swin_tiny_patch4_window7_224": _last_rows("norm"),
    "timm:swinv2_cr_tiny_224": ByHand("stages"),
    "timm:swinv2_tiny_window8_256": _last_rows("norm"),
    "timm:test_efficientnet": ByHand("bn2"),
    "timm:tinynet_e": ByHand("bn2"),
    "timm:tiny_vit_5m_224": ByHand("stages"),
    "timm:tresnet_m": ByHand("body"),
    "timm:twins_svt_small": _tokens("norm"),
    "timm:vgg11": ByHand("features"),
    "timm:visformer_small": ByHand("norm"),
    "timm:visformer_tiny": ByHand("norm"),
    "timm:vit_relpos_small_patch16_rpn_224": _tokens("norm"),
    "timm:vit_tiny_patch16_224": _tokens("blocks.11.norm1", 1),
    "timm:vit_small_r26_s32_224": _tokens("blocks.11.norm1", 1),
    "timm:vit_tiny_r_s16_p8_224": _tokens("blocks.11.norm1", 1),
    "timm:vitamin_small_224": _tokens("blocks"),
    "timm:xception41p": ByHand("act"),
    "timm:xcit_nano_12_p16_224": _tokens("cls_attn_blocks.1.norm1", 1),
    "transformers:BeitForImageClassification": _tokens("beit.layers.3", 1),
    "transformers:CLIPForImageClassification": _tokens("vision_model.encoder.layers.3", 1),
    "transformers:ConvNextForImageClassification": ByHand("convnext.encoder.stages.3"),
    "transformers:DeiTForImageClassification": _tokens("deit.layers.3.layernorm_before", 2),
    "transformers:Dinov2ForImageClassification": _tokens("dinov2.layernorm", 1),
    "transformers:Dinov2WithRegistersForImageClassification": _tokens("dinov2_with_registers.layernorm", 5),
    "transformers:EfficientNetForImageClassification": ByHand("efficientnet.encoder.top_activation"),
    "transformers:FocalNetForImageClassification": _tokens("focalnet.layernorm"),
    "transformers:LevitForImageClassification": _tokens("levit.encoder.stages.2"),
    "transformers:LevitForImageClassificationWithTeacher": _tokens("levit.encoder.stages.2"),
    "transformers:MobileNetV2ForImageClassification": ByHand("mobilenet_v2.conv_1x1"),
    "transformers:MobileViTForImageClassification": ByHand("mobilevit.conv_1x1_exp"),
    "transformers:ResNetForImageClassification": ByHand("resnet.encoder.stages.3"),
    "transformers:SwinForImageClassification": _tokens("swin.layernorm"),
    "transformers:Swinv2ForImageClassification": _tokens("swinv2.layernorm"),
    "transformers:ViTForImageClassification": _tokens("vit.layers.3.layernorm_before", 1),
}
