//! Reaches devices: addresses, ports, sessions, flashing. Links no ML.

mod address;
mod ports;
mod provision;
mod session;
mod trouble;

pub use address::{Address, AddressError};
pub use ports::{Device, Found, PROBE, Port, Usb, discover, ports, probe};
pub use provision::{
    Consent, Laid, LaidState, Mode, Provision, ProvisionError, ProvisionReport, Target, machine_of, provision,
};
pub use session::{DeployError, FlashProgress, FlashReport, Session};
pub use trouble::{Kind as TroubleKind, Trouble};
