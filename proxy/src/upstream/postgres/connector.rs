//! Stub.
use crate::pool::fault::ConnectFault;
use crate::pool::traits::Connector;
use super::connection::PgConnection;
/// x
pub struct PgConnector;
impl Connector for PgConnector {
    type Connection = PgConnection;
    async fn connect(&self) -> Result<PgConnection, ConnectFault> { unreachable!() }
    async fn reset(&self, _c: &mut PgConnection) -> Result<(), ConnectFault> { unreachable!() }
    async fn probe(&self, _c: &mut PgConnection) -> Result<(), ConnectFault> { unreachable!() }
}
impl PgConnector {
    /// x
    pub async fn cancel(&self, _key: &[u8]) -> Result<(), ConnectFault> { unreachable!() }
}
