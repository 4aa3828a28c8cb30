"""A scenario whose nodes have two interfaces, and traffic that comes in by the second."""

HEAD = """\
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: two-homes}
duration: 4s
nodes:
  list:
    - name: n1
      interfaces:
        - {name: eth0, addresses: [192.168.0.1/24]}
        - {name: vlan17, addresses: [10.46.0.1/16]}
    - name: n2
      interfaces:
        - {name: eth0, addresses: [192.168.0.2/24]}
        - {name: vlan17, addresses: [10.46.0.2/16]}
workloads:
  - {name: web, replicas: 1, placement: {nodes: [n2]}, ports: [{containerPort: 8080}]}
  - {name: client, replicas: 1, placement: {nodes: [n2]}}
objects:
  - apiVersion: v1
    kind: Service
    metadata: {name: web}
    spec: {type: LoadBalancer, clusterIP: 172.30.0.10, selector: {app: web},
           ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
    status: {loadBalancer: {ingress: [{ip: 10.46.200.0}]}}
"""
STRICT = "nodes.sysctls={net.ipv4.conf.all.rp_filter: 1}"
NODE_PORT = "traffic: [{name: t, service: web, via: nodePort, nodes: [n1], perSecond: 5, interface: vlan17}]\n"
#: what a load balancer that announces its address on vlan17 brings, from clients behind the router there
FAR = """
traffic:
  - {name: near, service: web, via: loadBalancer, perSecond: 5, interface: vlan17, clientNetwork: 10.46.7.0/24, clients: 3}
  - {name: far, service: web, via: loadBalancer, perSecond: 5, interface: vlan17, clientNetwork: 10.42.0.0/24, clients: 3}
"""
