//! Translates timm's tensor names into torchvision's, which the zoo uses throughout.

use std::collections::BTreeMap;

use crate::architecture::Architecture;
use crate::network::{Network, Op};

/// Whose names tensors go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// torchvision's, or names that both have: those of a ResNet.
    Torchvision,
    /// timm's.
    Timm,
}

impl Names {
    /// Tells the names of the tensors of a network.
    pub fn of<T>(tensors: &BTreeMap<String, T>) -> Self {
        if tensors.keys().any(|n| n.ends_with("conv_stem.weight")) { Self::Timm } else { Self::Torchvision }
    }
}

/// Renames every timm name that the network has; names it does not know are kept.
pub(crate) fn to_torchvision<T>(
    arch: Architecture,
    net: &Network,
    tensors: BTreeMap<String, T>,
) -> BTreeMap<String, T> {
    if Names::of(&tensors) == Names::Torchvision {
        return tensors;
    }
    let table = of_timm(arch, net);
    tensors
        .into_iter()
        .map(|(name, tensor)| {
            let renamed = name.rsplit_once('.').and_then(|(stem, part)| Some(format!("{}.{part}", table.get(stem)?)));
            (renamed.unwrap_or(name), tensor)
        })
        .collect()
}

/// Maps the names of timm's layers to those of torchvision's, the classifier's among them; where they are the same, as those
/// of a ResNet, it is empty.
pub fn of_timm(arch: Architecture, net: &Network) -> BTreeMap<String, String> {
    let mut table = BTreeMap::new();
    if matches!(arch, Architecture::ResNet { .. }) {
        return table;
    }
    let mut add = |timm: String, torchvision: &str| {
        table.insert(timm, torchvision.to_owned());
    };
    let mut place = Place::default();
    for node in &net.nodes {
        match &node.op {
            Op::Conv(c) => match block(&c.name) {
                Some(block) => {
                    place.enter(block, node.stage);
                    let (layer, p) = (place.layer(c.groups > 1), place.prefix());
                    add(format!("{p}.{layer}"), &c.name);
                    add(format!("{p}.bn{}", place.seen), &c.norm);
                }
                None if node.stage == 0 => {
                    add("conv_stem".into(), &c.name);
                    add("bn1".into(), &c.norm);
                }
                // MobileNetV3's last convolution is a block of its own, and what is called the head comes after the pool.
                None if matches!(arch, Architecture::MobileNetV3 { .. }) => {
                    add(format!("blocks.{}.0.conv", node.stage - 1), &c.name);
                    add(format!("blocks.{}.0.bn1", node.stage - 1), &c.norm);
                }
                None => {
                    add("conv_head".into(), &c.name);
                    add("bn2".into(), &c.norm);
                }
            },
            Op::SqueezeExcite(s) => {
                add(format!("{}.se.conv_reduce", place.prefix()), &s.reduce);
                add(format!("{}.se.conv_expand", place.prefix()), &s.expand);
            }
            Op::Linear(l) => add("conv_head".into(), &l.name),
            Op::Input | Op::Add(_) | Op::MaxPool | Op::GlobalAveragePool => {}
        }
    }
    add("classifier".into(), arch.head_name());
    table
}

/// Returns the name of the block that a layer of torchvision's is in.
fn block(layer: &str) -> Option<&str> {
    [".conv.", ".block."].iter().find_map(|part| layer.split_once(part)).map(|(block, _)| block)
}

/// Where a walk over the convolutions is.
#[derive(Default)]
struct Place<'a> {
    block: &'a str,
    stage: usize,
    /// The block's place in the stage.
    place: usize,
    /// Convolutions seen in the block.
    seen: usize,
    /// Whether its first convolution expands.
    expands: bool,
}

impl<'a> Place<'a> {
    fn enter(&mut self, block: &'a str, stage: usize) {
        if block != self.block {
            let place = if stage == self.stage { self.place + 1 } else { 0 };
            *self = Self { block, stage, place, seen: 0, expands: false };
        }
    }

    fn prefix(&self) -> String {
        format!("blocks.{}.{}", self.stage - 1, self.place)
    }

    /// Returns the name of the block's next convolution.
    fn layer(&mut self, depthwise: bool) -> &'static str {
        self.seen += 1;
        self.expands |= self.seen == 1 && !depthwise;
        match (depthwise, self.seen) {
            (true, _) => "conv_dw",
            (false, 1) => "conv_pw",
            // Where nothing expands, what projects is called as what else does.
            (false, _) => ["conv_pw", "conv_pwl"][usize::from(self.expands)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Padding;

    /// Architecture, layers in all, and some of their names.
    type Case = (&'static str, usize, &'static [(&'static str, &'static str)]);

    /// Names of timm 1.0.31's and torchvision 0.29.2's models; `models/zoo/golden` compares them all.
    #[test]
    fn timm_names_of_every_kind_of_layer_are_known() {
        let cases: [Case; 4] = [
            (
                "mobilenet_v2",
                52 * 2 + 1,
                &[
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
                    ("classifier", "classifier.1"),
                ],
            ),
            (
                "mobilenet_v3_small",
                34 * 2 + 9 * 2 + 2,
                &[
                    ("blocks.0.0.conv_dw", "features.1.block.0.0"),
                    ("blocks.0.0.se.conv_reduce", "features.1.block.1.fc1"),
                    ("blocks.0.0.conv_pw", "features.1.block.2.0"),
                    ("blocks.1.1.conv_pwl", "features.3.block.2.0"),
                    ("blocks.2.0.se.conv_expand", "features.4.block.2.fc2"),
                    ("blocks.4.2.bn3", "features.11.block.3.1"),
                    ("blocks.5.0.conv", "features.12.0"),
                    ("blocks.5.0.bn1", "features.12.1"),
                    ("conv_head", "classifier.0"),
                    ("classifier", "classifier.3"),
                ],
            ),
            (
                "mobilenet_v3_large",
                46 * 2 + 8 * 2 + 2,
                &[
                    ("blocks.0.0.conv_pw", "features.1.block.1.0"),
                    ("blocks.2.0.se.conv_reduce", "features.4.block.2.fc1"),
                    ("blocks.5.2.conv_pwl", "features.15.block.3.0"),
                    ("blocks.6.0.conv", "features.16.0"),
                ],
            ),
            (
                "efficientnet_b0",
                49 * 2 + 16 * 2 + 1,
                &[
                    ("blocks.0.0.se.conv_reduce", "features.1.0.block.1.fc1"),
                    ("blocks.2.1.bn2", "features.3.1.block.1.1"),
                    ("blocks.6.0.conv_pwl", "features.7.0.block.3.0"),
                    ("conv_head", "features.8.0"),
                    ("bn2", "features.8.1"),
                    ("classifier", "classifier.1"),
                ],
            ),
        ];
        for (id, count, names) in cases {
            let arch: Architecture = id.parse().unwrap();
            let table = of_timm(arch, &arch.backbone(Padding::Symmetric, 1e-5));
            for (timm, torchvision) in names {
                assert_eq!(table.get(*timm).map(String::as_str), Some(*torchvision), "{id} {timm}");
            }
            assert_eq!(table.len(), count, "{id}");
        }
    }
}
