//! The host, as the daemon sees it.

use std::{collections::BTreeSet, future::Future, net::IpAddr};
use weir_diagnosis::{doctor::Examination, explain::HostView};
use weir_kernel::{ExamineRequest, LinuxKernel, LookRequest, TraceRequest};
use weir_kernel_plan::{HostFacts, Kernel, KernelError, PortUse};
use weir_overlay::InterfaceName;
use weir_protocol::HostInfo;

use crate::{route_checks::advertised, settings::Settings};

/// A kernel that can also say what `up` must know.
pub(crate) trait Host: Kernel + 'static {
    /// Looks at the host, changing nothing.
    ///
    /// # Errors
    /// [`KernelError`] naming what could not be read.
    fn facts(
        &self,
        interface: &InterfaceName,
        listen_port: u16,
    ) -> impl Future<Output = Result<HostFacts, KernelError>> + Send;

    /// Looks at what becomes of packets, changing nothing.
    ///
    /// # Errors
    /// [`KernelError`] naming what could not be read.
    fn look(
        &self,
        request: &LookRequest,
    ) -> impl Future<Output = Result<HostView, KernelError>> + Send;

    /// Follows a packet through every table: what the kernel tells, in nft's words.
    ///
    /// # Errors
    /// [`KernelError`], when the kernel cannot be asked.
    fn trace(
        &self,
        request: &TraceRequest,
    ) -> impl Future<Output = Result<String, KernelError>> + Send;

    /// Looks at what `doctor` judges, changing nothing.
    ///
    /// # Errors
    /// [`KernelError`] naming what could not be read.
    fn examine(
        &self,
        request: &ExamineRequest,
    ) -> impl Future<Output = Result<Examination, KernelError>> + Send;

    /// The source ports that relayed connections take.
    ///
    /// # Errors
    /// [`KernelError`] when they cannot be counted.
    fn ports_in_use(&self) -> impl Future<Output = Result<Vec<PortUse>, KernelError>> + Send;
}

impl Host for LinuxKernel {
    async fn facts(
        &self,
        interface: &InterfaceName,
        listen_port: u16,
    ) -> Result<HostFacts, KernelError> {
        self.facts(interface, listen_port).await
    }

    async fn look(&self, request: &LookRequest) -> Result<HostView, KernelError> {
        self.look(request).await
    }

    async fn trace(&self, request: &TraceRequest) -> Result<String, KernelError> {
        self.trace(request).await
    }

    async fn examine(&self, request: &ExamineRequest) -> Result<Examination, KernelError> {
        self.examine(request).await
    }

    async fn ports_in_use(&self) -> Result<Vec<PortUse>, KernelError> {
        self.ports_in_use().await
    }
}

/// What the coordinator is told of the host.
pub(crate) fn host_info(settings: &Settings, ipv6: bool, addresses: BTreeSet<IpAddr>) -> HostInfo {
    HostInfo {
        hostname: settings
            .hostname
            .0
            .as_ref()
            .map_or_else(hostname, ToString::to_string),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        os: operating_system(),
        listen_port: settings.listen_port,
        addresses,
        endpoint: settings.endpoint.0,
        advertised_routes: advertised(settings, ipv6),
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

fn operating_system() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    describe(&release, kernel.trim())
}

fn describe(release: &str, kernel: &str) -> String {
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or("Linux", |name| name.trim_matches('"'));
    format!("{name}, Linux {kernel}")
}

#[cfg(test)]
mod tests {
    use super::describe;

    #[test]
    fn the_system_is_named_for_people() {
        let release = "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n";
        assert_eq!(
            describe(release, "6.1.0-28-amd64"),
            "Debian GNU/Linux 12 (bookworm), Linux 6.1.0-28-amd64"
        );
        assert_eq!(describe("", "6.1"), "Linux, Linux 6.1");
    }
}
