import java.util.Map;
import java.util.TreeMap;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.retry.RetryOneTime;
import org.apache.curator.x.discovery.ServiceDiscovery;
import org.apache.curator.x.discovery.ServiceDiscoveryBuilder;
import org.apache.curator.x.discovery.ServiceInstance;
import org.apache.curator.x.discovery.UriSpec;

/**
 * Registers an instance with Apache Curator's own service discovery, as applications do, and keeps it registered until
 * it is killed.
 *
 * <p>Register CONNECT BASEPATH NAME ADDRESS PORT [KEY=VALUE..]: the pairs are the instance's payload.
 */
public class Register {
  public static void main(String[] args) throws Exception {
    Map<String, String> payload = new TreeMap<>();
    for (int i = 5; i < args.length; i++) {
      String[] pair = args[i].split("=", 2);
      payload.put(pair[0], pair[1]);
    }
    try (CuratorFramework client = CuratorFrameworkFactory.newClient(args[0], 5000, 5000, new RetryOneTime(500))) {
      client.start();
      ServiceInstance<Map> instance =
          ServiceInstance.<Map>builder()
              .name(args[2])
              .address(args[3])
              .port(Integer.parseInt(args[4]))
              .payload(payload)
              .uriSpec(new UriSpec("{scheme}://{address}:{port}"))
              .build();
      try (ServiceDiscovery<Map> discovery =
          ServiceDiscoveryBuilder.builder(Map.class).client(client).basePath(args[1]).thisInstance(instance).build()) {
        discovery.start();
        System.out.println("registered " + instance.getId());
        Thread.currentThread().join(); // until it is killed
      }
    }
  }
}
