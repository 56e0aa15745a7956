//! Looks at the host for a diagnosis, and changes nothing.

mod examine;
mod others;
mod trace;
mod way;

pub use examine::ExamineRequest;
pub use trace::TraceRequest;

use std::net::IpAddr;
use weir_diagnosis::{OtherFirewalls, RouteAnswer, explain::HostView};
use weir_kernel_plan::{KernelError, SysctlKey};
use weir_overlay::InterfaceName;

use crate::{addresses, linux::LinuxKernel, sysctl};

/// What a diagnosis is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookRequest {
    /// Our link.
    pub interface: InterfaceName,
    /// Where packets go to.
    pub destination: IpAddr,
    /// The overlay address of the node that sends them; none for this host itself.
    pub source: Option<IpAddr>,
}

impl LinuxKernel {
    /// What the kernel would do with packets to an address.
    ///
    /// # Errors
    /// [`KernelError`] naming what could not be read. A table of somebody else that cannot be read
    /// is a fact and no error.
    pub async fn look(&self, request: &LookRequest) -> Result<HostView, KernelError> {
        let LookRequest {
            interface,
            destination,
            source,
        } = request;
        let direct = way::way(&self.netlink, *destination, None).await?;
        let (outward, back) = match source {
            None => (direct, None),
            Some(source) => {
                let through = way::way(&self.netlink, *destination, Some((*source, interface)));
                let back = way::way(&self.netlink, *source, None).await?;
                (with_source(through.await?, direct), Some(back))
            }
        };
        let forwarding = if destination.is_ipv4() {
            SysctlKey::ipv4_forwarding()
        } else {
            SysctlKey::ipv6_forwarding()
        };
        let own = crate::links::find(&self.netlink, interface)
            .await?
            .map(|link| link.index);
        Ok(HostView {
            outward,
            back,
            rules: way::rules(&self.netlink).await?,
            forwarding: sysctl::read(&forwarding)?.map(|value| value != "0"),
            addresses: addresses::list(&self.netlink, None)
                .await?
                .iter()
                .filter(|found| Some(found.index) != own)
                .map(|found| found.address.addr())
                .collect(),
            others: self.other_firewalls().await?,
        })
    }

    /// The firewalls of other programs.
    ///
    /// # Errors
    /// [`KernelError`], when nft does not even list the names of tables.
    pub async fn other_firewalls(&self) -> Result<OtherFirewalls, KernelError> {
        others::read(&self.options.nft).await
    }
}

/// The kernel chooses no source address for what it forwards; translation takes the one that it
/// would choose for itself. Where it does not answer for forwarded packets at all, as while
/// forwarding is off, its own way stands in.
fn with_source(through: RouteAnswer, direct: RouteAnswer) -> RouteAnswer {
    match (through, direct) {
        (RouteAnswer::Out(mut out), RouteAnswer::Out(own)) => {
            if out.link == own.link {
                out.source = own.source;
            }
            RouteAnswer::Out(out)
        }
        (RouteAnswer::Nowhere(_), direct) => direct,
        (through, _) => through,
    }
}
