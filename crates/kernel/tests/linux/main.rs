//! The adapter on the real kernel. Every test has its own network namespaces and needs root.

#[cfg(test)]
mod firewall;
#[cfg(test)]
mod host;
#[cfg(test)]
mod routing;
#[cfg(test)]
mod support;
#[cfg(test)]
mod userspace;
#[cfg(test)]
mod wireguard;
