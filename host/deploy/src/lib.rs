//! Reaches devices: addresses, ports, sessions, flashing, pulling. Links no ML.

mod address;
mod durable;
mod field;
mod measure;
mod ports;
mod provision;
mod pull;
mod session;
mod trouble;

pub use address::{Address, AddressError};
pub use field::{Field, FieldError};
pub use ports::{Device, Found, PROBE, Port, Usb, discover, ports, probe};
pub use provision::{
    Consent, Laid, LaidState, Mode, Provision, ProvisionError, ProvisionReport, Target, machine_of, provision,
};
pub use pull::{PullProgress, PullReport, Then};
pub use session::{DeployError, FlashProgress, FlashReport, Session};
pub use trouble::{Kind as TroubleKind, Trouble};
