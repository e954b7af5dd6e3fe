//! The resolver under simulation.

mod keys;
mod memory;
mod networks;
mod properties;
mod serials;
