"""A second, small model of the control plane on a clock, written from the specification alone (CP-1 to CP-15).

It shares no code with ``kpsim/simulation``: no import, no structure. ``model`` joins the parts and
plays a scenario: ``deployments``, ``kubelets`` and ``nodes``, the endpointslice-controller (``controller``), the kube-proxies
(``proxies``), the load balancers (``balancers``) and the ``clock`` that they share. ``scenarios`` draws scenarios,
``comparison`` plays one in both models and tells where they differ. Neither knows about rules or packets: an
endpoint is a pod and its three conditions, a sync is a node and two times.
"""
