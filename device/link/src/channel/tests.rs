//! Two channels joined by a simulated line, in simulated time: no sleeping, no threads.

use super::*;
