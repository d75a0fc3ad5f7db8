//! A network's weights as tests export them.

use graft_onnx::{Export, Format, Head, Layers, Metadata, Outputs};
use graft_runtime::{PREPROCESSING, PREPROCESSING_DIGEST};
use graft_zoo::weights::Tensors;
use graft_zoo::{Network, Preprocessing};

use super::Net;

/// Weights in single precision.
pub(super) struct Float {
    pub(super) network: Network,
    pub(super) backbone: Tensors,
    pub(super) head: Head,
    pub(super) preprocessing: Preprocessing,
}

impl Float {
    pub(super) fn of(net: &Net, network: &Network) -> Self {
        let (backbone, head) = net.finish().unwrap();
        Self { network: network.clone(), backbone, head, preprocessing: net.preprocessing.clone() }
    }

    pub(super) fn layers(&self) -> Layers {
        Layers::fold(&self.network, &self.backbone, Some(&self.head)).unwrap()
    }

    pub(super) fn write(&self, format: Format<'_>, outputs: Outputs) -> Vec<u8> {
        let p = &self.preprocessing;
        let metadata =
            Metadata::from([(PREPROCESSING.to_owned(), p.to_json()), (PREPROCESSING_DIGEST.to_owned(), p.digest())]);
        let export = Export { network: &self.network, layers: &self.layers(), preprocessing: p };
        export.write(format, outputs, &metadata).unwrap()
    }
}
