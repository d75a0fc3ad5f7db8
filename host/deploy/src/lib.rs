//! Reaches devices: addresses, ports, sessions, flashing. Links no ML.

mod address;
mod ports;
mod session;

pub use address::{Address, AddressError};
pub use ports::{Port, ports};
pub use session::{DeployError, FlashProgress, FlashReport, Session};
