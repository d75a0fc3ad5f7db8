//! Translates timm's tensor names into torchvision's, which the zoo uses throughout.

use std::collections::BTreeMap;

use crate::network::{Architecture, Network};

/// Renames every timm name that the network has; names it does not know are kept.
pub(crate) fn to_torchvision<T>(
    arch: Architecture,
    net: &Network,
    tensors: BTreeMap<String, T>,
) -> BTreeMap<String, T> {
    // timm's ResNets carry torchvision's names already.
    let Architecture::MobileNetV2 { .. } = arch else { return tensors };
    if !tensors.contains_key("conv_stem.weight") {
        return tensors;
    }
    let table = mobilenet_v2_table(net);
    tensors
        .into_iter()
        .map(|(name, tensor)| {
            let renamed = name.rsplit_once('.').and_then(|(stem, part)| Some(format!("{}.{part}", table.get(stem)?)));
            (renamed.unwrap_or(name), tensor)
        })
        .collect()
}

/// Maps timm layer names to torchvision layer names.
fn mobilenet_v2_table(net: &Network) -> BTreeMap<String, String> {
    let mut table = BTreeMap::new();
    let mut add = |timm: String, torchvision: &str| {
        table.insert(timm, torchvision.to_owned());
    };
    // (index of the torchvision block, its stage, its place in the stage, how many convolutions were seen in it)
    let (mut block, mut stage, mut place, mut seen) = (String::new(), 0, 0, 0);
    for (index, conv) in net.convs() {
        let node_stage = net.nodes[index].stage;
        if node_stage == 0 {
            add("conv_stem".into(), &conv.name);
            add("bn1".into(), &conv.norm);
            continue;
        }
        if node_stage + 1 == net.stages {
            add("conv_head".into(), &conv.name);
            add("bn2".into(), &conv.norm);
            continue;
        }
        let this = conv.name.split('.').nth(1).unwrap_or_default().to_owned();
        if this != block {
            place = if node_stage == stage { place + 1 } else { 0 };
            (block, stage, seen) = (this, node_stage, 0);
        }
        seen += 1;
        let p = format!("blocks.{}.{place}", stage - 1);
        // The first stage has no expansion: timm calls its two convolutions conv_dw and conv_pw.
        let layer = match (stage, seen, conv.groups > 1) {
            (1, _, true) | (_, _, true) => "conv_dw",
            (1, _, false) => "conv_pw",
            (_, 1, _) => "conv_pw",
            _ => "conv_pwl",
        };
        add(format!("{p}.{layer}"), &conv.name);
        add(format!("{p}.bn{seen}"), &conv.norm);
    }
    add("classifier".into(), "classifier.1");
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Padding;

    #[test]
    fn timm_names_of_every_kind_of_layer_are_known() {
        let arch = Architecture::MobileNetV2 { width: 1.0 };
        let table = mobilenet_v2_table(&arch.backbone(Padding::Symmetric, 1e-5));
        for (timm, torchvision) in [
            ("conv_stem", "features.0.0"),
            ("bn1", "features.0.1"),
            ("blocks.0.0.conv_dw", "features.1.conv.0.0"),
            ("blocks.0.0.conv_pw", "features.1.conv.1"),
            ("blocks.0.0.bn2", "features.1.conv.2"),
            ("blocks.1.0.conv_pw", "features.2.conv.0.0"),
            ("blocks.1.1.bn3", "features.3.conv.3"),
            ("blocks.5.2.conv_dw", "features.16.conv.1.0"),
            ("blocks.6.0.conv_pwl", "features.17.conv.2"),
            ("conv_head", "features.18.0"),
            ("bn2", "features.18.1"),
        ] {
            assert_eq!(table.get(timm).map(String::as_str), Some(torchvision), "{timm}");
        }
        assert_eq!(table.len(), 52 * 2 + 1);
    }
}
