//! The resolver under simulation.

mod keys;
mod networks;
mod properties;
mod serials;
